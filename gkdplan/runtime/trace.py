"""The live bytes of a step, counted without weights, data or a second process.

The plan's models, loss and optimizer run as they do in a run, on fake tensors of rows that fill
the plan, on a rank of each class. What repeats itself byte for byte is not run to its end: of the
micro-batches those that are in flight at one time and one more, and two chunks of the loss. A short
step before the one that is counted makes what stays: Adam's moments and Megatron's buffers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import lcm
from typing import assert_never

from gkdplan import __version__
from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.layout import AxisDegrees, RankClass
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import (
    AskTeacher,
    Await,
    Checkpoint,
    Draw,
    Evaluate,
    Generate,
    GenerateAhead,
    Move,
    OptimizerStep,
    Refit,
    Reshard,
    StudentStep,
    TakeSamples,
    TeacherForward,
)
from gkdplan.runtime.average import StudentAverage, open_average
from gkdplan.runtime.data.batch import MicroBatch, Row, row_share
from gkdplan.runtime.data.deal import Deal
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.fake_world import fake_world
from gkdplan.runtime.megatron.mesh import Mesh, init_teacher_mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.residency import Residency, keep_teacher_on_host, let_student_rest
from gkdplan.runtime.student import student_forward
from gkdplan.runtime.teacher.head import head_of_loss
from gkdplan.runtime.teacher.payload import TeacherPayload, teacher_payloads
from gkdplan.runtime.teacher.resharding import reshard, resharding_of
from gkdplan.runtime.vision.blank_images import BlankEyes, blank_image, known_grids
from gkdplan.runtime.vision.images import Eyes, Shown
from gkdplan.vocab import LossBackend, Phase, Role, Tier

NUM_LOSS_CHUNKS = 2


def trace(
    plan: RunPlan, tell: Callable[[int, int], None] = lambda done, total: None
) -> dict[RankClass, dict[Phase, int]]:
    """Peak live bytes of the phases teacher, student and optimizer, for each class of ranks; `tell`
    hears how many classes are done, and of how many.

    `plan.layout.backend` must be "gloo". Raises UserError for a teacher behind a server.
    """
    if plan.models.teacher.server is not None:
        raise UserError(
            error(
                "GK590",
                "a trace of a teacher behind a server is not yet available in gkdplan "
                f"{__version__}",
                "teacher.server",
                help=('remove `[teacher.server]`, with `distill.payload = "top_k"` in its place',),
            )
        )
    peaks: dict[RankClass, dict[Phase, int]] = {}
    for rank_class in plan.layout.classes:
        tell(len(peaks), len(plan.layout.classes))
        peaks[rank_class] = _trace_class(plan, rank_class)
    return peaks


def _trace_class(plan: RunPlan, rank_class: RankClass) -> dict[Phase, int]:
    """The peaks on the rank where they are most.

    Ranks of the context axis, of either model, differ by the response tokens in their share of a
    row, and where the optimizer's state is divided over the data and context axes ranks differ by
    their pieces of it. Traced are a rank with the most tokens, of those the one that owns most, and
    those of all that own most and whose update makes most.
    """
    ranks = range(*rank_class.ranks[0])
    fullest = _ranks_of_most_tokens(plan, plan.layout.student, ranks)
    first, owned = _trace_rank(plan, fullest[0])
    num_places = len(owned)

    def pieces(rank: int) -> list[int]:
        return owned[rank // plan.layout.student.tensor % num_places]

    others = {
        max(ranks, key=lambda rank: sum(pieces(rank))),
        max(ranks, key=lambda rank: _largest_update(pieces(rank))),
        max(fullest, key=lambda rank: sum(pieces(rank))),
    }
    if plan.layout.is_resharded:
        of_teacher = _ranks_of_most_tokens(plan, plan.layout.teacher, ranks)
        both = [rank for rank in of_teacher if rank in fullest]
        others |= {of_teacher[0], *both[:1]}
    peaks = [_trace_rank(plan, rank)[0] for rank in others - {fullest[0]}]
    return {phase: max(of_rank[phase] for of_rank in (first, *peaks)) for phase in first}


def _largest_update(pieces: list[int]) -> int:
    """Elements of what torch's AdamW makes at one time: two arrays as large as the piece that it
    updates, beside one as large as the piece before."""
    return max((2 * num + before for before, num in pairwise((0, *pieces))), default=0)


def _ranks_of_most_tokens(plan: RunPlan, degrees: AxisDegrees, ranks: range) -> list[int]:
    """By the response tokens of a row that fills the plan, in a model's share of it."""
    prompt = plan.data.max_length
    learnt = range(prompt - 1, prompt - 1 + plan.sampling.max_completion_length)
    shares = [row_share(degrees, context) for context in range(degrees.context)]
    num_tokens = [sum(p in learnt for p in share.places(learnt.stop + 1)) for share in shares]
    of_ranks = [num_tokens[degrees.place_of(rank).context] for rank in ranks]
    return [rank for rank, num in zip(ranks, of_ranks, strict=True) if num == max(of_ranks)]


def _trace_rank(plan: RunPlan, rank: int) -> tuple[dict[Phase, int], list[list[int]]]:
    """Peaks by phase, and the pieces that each place on the data axis owns. Without weights there
    is nothing to compile: a compiled loss is traced as eager's, which is priced alike."""
    objective = replace(plan.objective, loss_backend=LossBackend.EAGER)
    plan = replace(plan, objective=objective)
    num_labels = NUM_LOSS_CHUNKS * plan.objective.chunk_tokens
    vision = plan.models.student.shape.vision
    with (
        known_grids(vision, _image_of_row(plan)),
        fake_world(plan.layout, rank, num_labels) as mesh,
    ):
        step = build_step(plan, mesh)
        with step.meter:
            step.warm_up()
            step.run()
        return step.peak_bytes, step.trainer.owned_pieces()


def _image_of_row(plan: RunPlan) -> Shown | None:
    """All that a prompt which fills the plan shows, as one image."""
    vision, pictures = plan.models.student.shape.vision, plan.data.pictures
    if vision is None or pictures is None:
        return None
    num_tokens = vision.most_tokens(pictures.number, plan.data.max_length)
    return blank_image(num_tokens) if num_tokens else None


def build_step(plan: RunPlan, mesh: Mesh) -> "TracedStep":
    """Both models, the loss and the optimizer of this rank, without weights."""
    student = build_chunks(plan.models.student, plan.layout.student, mesh, trainable=True)
    teacher_mesh = init_teacher_mesh(plan.layout, mesh)
    teacher = student
    if not plan.models.teacher.is_students_base:
        teacher = build_chunks(
            plan.models.teacher, plan.layout.teacher, teacher_mesh, trainable=False
        )
    meter = LiveBytes(mesh.device)
    residency = Residency(mesh.device, meter)
    if plan.models.teacher.offload is Tier.HOST:
        keep_teacher_on_host(residency, plan.models.teacher, teacher, meter)
    trainer = Trainer(student, plan.optimizer, mesh, plan.training.num_steps)
    average = open_average(plan.models.teacher, student, teacher, trainer, residency, meter)
    let_student_rest(residency, plan, trainer, meter)
    parameters = [parameter for chunk in (*student, *teacher) for parameter in chunk.parameters()]
    meter.adopt([*parameters, *trainer.resident_tensors()])
    vocab_size = plan.models.vocab_size
    head = head_of_loss(plan, mesh, teacher)
    if head is not None:
        meter.adopt([head])
    softcap = plan.models.teacher.shape.logit_softcap
    distillation = Distillation(
        teacher, plan.objective, vocab_size, mesh.tensor_group, head, softcap
    )
    return TracedStep(plan, distillation, residency, trainer, average, meter, mesh)


@dataclass(slots=True)
class TracedStep:
    """One rank, ready to step on rows that fill the plan."""

    plan: RunPlan
    distillation: Distillation
    residency: Residency
    trainer: Trainer
    average: StudentAverage | None
    meter: LiveBytes
    mesh: Mesh
    peak_bytes: dict[Phase, int] = field(default_factory=dict)

    def warm_up(self) -> None:
        """A short step, which makes what stays."""
        layout = self.plan.layout
        self._walk(lcm(*(_unit(d) * d.data for d in (layout.student, layout.teacher))), 1)

    def run(self) -> None:
        """A full step; `peak_bytes` holds its peaks."""
        self.peak_bytes.clear()
        num_micro_batches = self.plan.batch.num_micro_batches * self.plan.layout.student.data
        self._walk(num_micro_batches, self.plan.sampling.max_completion_length)

    def _walk(self, num_micro_batches: int, response_tokens: int) -> None:
        """On `num_micro_batches` of all ranks."""
        batches = self._batches(num_micro_batches, response_tokens)
        micro_batches: list[MicroBatch] = []
        payloads: list[TeacherPayload | None] = []
        for action in self.plan.steps:
            match action:
                case Move():
                    self.residency.apply(action)
                case Await():
                    self.residency.await_copy(action.object)
                case TeacherForward():
                    with self._phase(Phase.TEACHER):
                        micro_batches += self._deal(Role.STUDENT, batches)
                        payloads += self._teacher_forward(batches, micro_batches)
                case AskTeacher():
                    raise AssertionError("a teacher behind a server is not traced: GK590")
                case Reshard():
                    with self._phase(Phase.TEACHER):
                        resharding = resharding_of(self.plan, batches, action.payload)
                        payloads = reshard(resharding, payloads, self.mesh.device)
                case StudentStep():
                    with self._phase(Phase.STUDENT):
                        self._student_step(micro_batches, payloads)
                        payloads.clear()
                case OptimizerStep():
                    with self._phase(Phase.OPTIMIZER):
                        self.trainer.step()
                        if self.average is not None:
                            self.average.update()
                case Draw() | Refit() | Generate() | GenerateAhead() | TakeSamples():
                    continue
                case Evaluate() | Checkpoint():
                    continue
                case _:
                    assert_never(action)

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        self.meter.mark_phase()
        yield
        self.peak_bytes[phase] = max(self.peak_bytes.get(phase, 0), self.meter.peak_bytes)

    def _batches(self, num_micro_batches: int, response_tokens: int) -> list[list[Row]]:
        """Rows as long as the plan allows, `response_tokens` of each to be learnt."""
        longest = self.plan.data.max_length + self.plan.sampling.max_completion_length
        row = Row([0] * (longest - response_tokens), [0] * response_tokens)
        image, vision = _image_of_row(self.plan), self.plan.models.student.shape.vision
        if image is not None and vision is not None:
            seen = [vision.image_token_id] * image.num_tokens
            row = Row(seen + list(row.prompt[len(seen) :]), row.response, (image,))
        return [[row] * self.plan.batch.micro_rows] * num_micro_batches

    def _deal(self, role: Role, batches: list[list[Row]]) -> list[MicroBatch]:
        degrees: AxisDegrees = getattr(self.plan.layout, role)
        eyes = self._eyes(role, degrees)
        micro_batches = Deal(degrees, batches).micro_batches(self.mesh.rank, pad_id=0, eyes=eyes)
        return [micro_batch.to(self.mesh.device) for micro_batch in micro_batches]

    def _eyes(self, role: Role, degrees: AxisDegrees) -> Eyes | None:
        vision = getattr(self.plan.models, role).shape.vision
        if vision is None or self.plan.data.pictures is None:
            return None
        is_first = degrees.place_of(self.mesh.rank).stage == 0
        return BlankEyes(vision, None, self.plan.data.pictures, is_first)

    def _teacher_forward(
        self, batches: list[list[Row]], of_student: list[MicroBatch]
    ) -> list[TeacherPayload | None]:
        """The payload of every micro-batch, those between the first and the last not computed."""
        layout, degrees = self.plan.layout, self.plan.layout.teacher
        micro_batches = self._deal(Role.TEACHER, batches) if layout.is_resharded else of_student
        unit, num_repeats = _unit(degrees), _num_repeats(degrees)
        early, last = micro_batches[:-num_repeats], micro_batches[-num_repeats:]
        first = teacher_payloads(self.distillation, early[:unit])
        others = [_alike(first[0]) for _ in early[unit:]]
        return [*first, *others, *teacher_payloads(self.distillation, last)]

    def _student_step(
        self, micro_batches: list[MicroBatch], payloads: list[TeacherPayload | None]
    ) -> None:
        pairs = list(zip(micro_batches, payloads, strict=True))
        num_tokens = sum(batch.num_response_tokens for batch in micro_batches)
        self.trainer.forward_backward(
            pairs[: _num_repeats(self.plan.layout.student)],
            lambda chunk, pair: student_forward(
                self.distillation, chunk, *pair, num_tokens, self.plan.objective.sft_alpha
            ),
            shape=tuple(micro_batches[0].tokens_BS.shape),
        )


def _unit(degrees: AxisDegrees) -> int:
    """Micro-batches that a schedule takes at one time: interleaved ones take a group."""
    return degrees.pipeline if degrees.virtual_pipeline > 1 else 1


def _num_repeats(degrees: AxisDegrees) -> int:
    """Micro-batches after which a schedule repeats itself: those in flight and one more."""
    return 3 * _unit(degrees) if degrees.virtual_pipeline > 1 else degrees.pipeline + 1


def _alike(payload: TeacherPayload | None) -> TeacherPayload | None:
    return None if payload is None else TeacherPayload(payload.states.clone())
