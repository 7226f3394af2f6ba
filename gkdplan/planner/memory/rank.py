"""One rank of a class: its share of both models, and the rows that go through each."""

from dataclasses import dataclass

from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.fused import fused_of
from gkdplan.planner.memory.learning_eyes import backward_bytes, kept_bytes
from gkdplan.planner.memory.loss import INT64_BYTES, Loss
from gkdplan.planner.memory.model import RankModel, rank_model
from gkdplan.planner.memory.optimizer import TrainingState, state_of_rank
from gkdplan.planner.memory.vision import (
    joining_bytes,
    looking_bytes,
    pixel_bytes,
    position_bytes,
    said_bytes,
    tower_bytes,
)
from gkdplan.runplan.layout import AxisDegrees, RankClass
from gkdplan.vocab import Role


@dataclass(frozen=True, slots=True)
class Share:
    """A model's share and its micro-batch, in which `num_response_tokens` are learnt.

    `rows` are those of the global batch that the rank works on, all micro-batches together. Images
    of a row that a tower on the rank looks at take at most `seen_of_row` tokens of it.
    """

    model: RankModel
    batch: Batch
    rows: int
    num_response_tokens: int
    seen_of_row: int = 0

    @property
    def response_tokens_of_all_rows(self) -> int:
        return self.rows // self.batch.rows * self.num_response_tokens

    @property
    def token_bytes(self) -> int:
        """Ids of all rows, and the places and labels of their response tokens, which wait for
        their turn together, with what a tower looks at and where tokens stand that images are
        among (runtime/data/batch.py, MicroBatch)."""
        num_ids = self.rows * self.batch.tokens
        of_text = INT64_BYTES * (num_ids + 2 * self.response_tokens_of_all_rows)
        seen = pixel_bytes(self.model.shape, self.rows * self.seen_of_row)
        return of_text + position_bytes(self.model.shape, num_ids) + seen

    @property
    def seen_bytes(self) -> int:
        """What is kept of a micro-batch's images for the backward; where whole layers are made
        again also what the tower says to them."""
        kept = kept_bytes(self.model, self.batch.rows * self.seen_of_row)
        return kept + (self._said_bytes if self._hears_again else 0)

    @property
    def seen_backward_bytes(self) -> int:
        """What passes in the backward of a micro-batch's images."""
        return backward_bytes(self.model, self.batch.rows * self.seen_of_row)

    @property
    def said_bytes(self) -> int:
        """What a tower says to the layers of a micro-batch, held until they have run, where it is
        not kept."""
        return 0 if self._hears_again else self._said_bytes

    @property
    def _said_bytes(self) -> int:
        return said_bytes(self.model, self.batch.rows * self.seen_of_row)

    @property
    def _hears_again(self) -> bool:
        return self.model.recompute.granularity == "full"

    @property
    def looking_bytes(self) -> int:
        """What passes when a micro-batch's images are looked at, before the first layer."""
        return looking_bytes(self.model, self.batch, self.batch.rows * self.seen_of_row)

    @property
    def tower_bytes(self) -> int:
        """Of that what passes in tower and projector."""
        vision, num_tokens = self.model.shape.vision, self.batch.rows * self.seen_of_row
        return 0 if vision is None else tower_bytes(vision, num_tokens, self.model.dtype)

    @property
    def joining_bytes(self) -> int:
        """What passes where features join the embedding, or where there is none but that."""
        return joining_bytes(self.model, self.batch, self.batch.rows * self.seen_of_row)


@dataclass(frozen=True, slots=True)
class Rank:
    """What every buffer of a rank is priced from."""

    draft: Draft
    student: Share
    teacher: Share
    state: TrainingState

    @property
    def has_loss(self) -> bool:
        """The loss, and with it the head of either model, is where the student ends."""
        return self.student.model.stage.is_last

    @property
    def shares(self) -> tuple[Share, ...]:
        """Of the models that the rank has a part of: a teacher behind a server is none, nor one
        that is the student without adapters."""
        is_apart = self.has_teacher and not self.draft.models.teacher.is_students_base
        return (self.student, self.teacher) if is_apart else (self.student,)

    @property
    def has_teacher(self) -> bool:
        return self.draft.models.teacher.server is None

    @property
    def loss(self) -> Loss:
        return Loss(
            self.student.model,
            self.teacher.model,
            self.draft.objective.payload,
            self.draft.layout.backend,
            self.draft.objective.chunk_tokens,
            self.student.num_response_tokens,
            self.draft.models.vocab_size,
            num_kept=self.draft.objective.top_k or 0,
            has_labels=self.draft.objective.sft_alpha > 0,
            loss_backend=self.draft.objective.loss_backend,
        )

    def share(self, role: Role) -> Share:
        return self.student if role is Role.STUDENT else self.teacher


def rank_of_class(draft: Draft, ranks: RankClass) -> Rank:
    """Any rank of the class; where ranks differ by padding or by their place on the context axis,
    the fullest."""
    layout, models, fused = draft.layout, draft.models, fused_of(draft.layout)
    student = rank_model(models.student, layout.student, fused, ranks.stage)
    teacher = rank_model(models.teacher, layout.teacher, fused, ranks.teacher_stage)
    return Rank(
        draft,
        _share(draft, student, layout.student, ranks),
        _share(draft, teacher, layout.teacher, ranks),
        state_of_rank(
            student,
            layout.student,
            _ranks_of_stage(draft, ranks),
            distributed=draft.optimizer.distributed,
        ),
    )


def _ranks_of_stage(draft: Draft, ranks: RankClass) -> range:
    """Those of the class, counted from the first of the student's stage."""
    layout = draft.layout
    start, end = ranks.ranks[0]
    first = ranks.stage * (layout.world_size // layout.student.pipeline)
    return range(start - first, end - first)


def _share(draft: Draft, model: RankModel, degrees: AxisDegrees, ranks: RankClass) -> Share:
    micro_rows = draft.batch.micro_rows
    num_response_tokens = max(draft.response_tokens(degrees, run) for run in ranks.ranks)
    return Share(
        model,
        Batch(micro_rows, draft.sequence_tokens(degrees) // degrees.context, degrees.context),
        micro_rows * draft.num_micro_batches(degrees),
        micro_rows * num_response_tokens,
        draft.image_tokens_of_row(model.shape) if model.stage.is_first else 0,
    )
