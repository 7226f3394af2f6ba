"""The live bytes of a step, counted without weights, data or a second process.

The plan's models, loss and optimizer run as they do in a run, on fake tensors of rows that fill
the plan, on a rank of each class. What repeats itself byte for byte is not run to its end: of the
micro-batches those that are in flight at one time and one more, and two chunks of the loss. A short
step before the one that is counted makes what stays: Adam's moments and Megatron's buffers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import assert_never

from gkdplan import __version__
from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.layout import RankClass
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import (
    AskTeacher,
    Await,
    Checkpoint,
    Draw,
    Evaluate,
    Generate,
    Move,
    OptimizerStep,
    Refit,
    StudentStep,
    TeacherForward,
)
from gkdplan.runtime.data.batch import MicroBatch, RowShare, collate, row_share
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.fake_world import fake_world
from gkdplan.runtime.megatron.mesh import Mesh, init_teacher_mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.residency import Residency, keep_teacher_on_host
from gkdplan.runtime.student import student_forward
from gkdplan.runtime.teacher.payload import TeacherPayload, teacher_payloads
from gkdplan.vocab import Phase, Tier

NUM_LOSS_CHUNKS = 2


def trace(plan: RunPlan) -> dict[RankClass, dict[Phase, int]]:
    """Peak live bytes of the phases teacher, student and optimizer, for each class of ranks.

    `plan.layout.backend` must be "gloo". Raises UserError for a teacher with a layout of its own
    or behind a server.
    """
    if plan.models.teacher.server_url is not None:
        raise UserError(
            error(
                "GK590",
                "a trace of a teacher behind a server is not yet available in gkdplan "
                f"{__version__}",
                "teacher.server",
                help=('remove `[teacher.server]`, with `distill.payload = "top_k"` in its place',),
            )
        )
    if not _is_on_one_mesh(plan):
        raise UserError(
            error(
                "GK590",
                "a trace of a teacher with a layout of its own is not yet available in gkdplan "
                f"{__version__}",
                "teacher.parallel",
                help=("remove `teacher.parallel`, to trace both models on the student's layout",),
            )
        )
    return {rank_class: _trace_class(plan, rank_class) for rank_class in plan.layout.classes}


def _is_on_one_mesh(plan: RunPlan) -> bool:
    """Whether the teacher has the student's layout, expert axes apart where one model is dense."""
    student, teacher = plan.layout.student, plan.layout.teacher
    if None in (plan.models.student.shape.moe, plan.models.teacher.shape.moe):
        teacher = replace(teacher, expert=student.expert, expert_tensor=student.expert_tensor)
    return teacher == student


def _trace_class(plan: RunPlan, rank_class: RankClass) -> dict[Phase, int]:
    """The peaks on the rank where they are most.

    Ranks of the context axis differ by the response tokens in their share of a row, and where the
    optimizer's state is divided over the data and context axes ranks differ by their pieces of it.
    Traced are a rank with the most tokens, of those the one that owns most, and those of all that
    own most and whose update makes most.
    """
    start, degrees = rank_class.ranks[0][0], plan.layout.student
    tokens_at = _context_rank_of_most_tokens(plan)
    first, pieces = _trace_rank(plan, start + tokens_at * degrees.tensor)
    places = range(len(pieces))
    others = {
        max(places, key=lambda place: sum(pieces[place])),
        max(places, key=lambda place: _largest_update(pieces[place])),
        max(places[tokens_at :: degrees.context], key=lambda place: sum(pieces[place]), default=0),
    }
    peaks = [_trace_rank(plan, start + p * degrees.tensor)[0] for p in others - {tokens_at}]
    return {phase: max(of_rank[phase] for of_rank in (first, *peaks)) for phase in first}


def _largest_update(pieces: list[int]) -> int:
    """Elements of what torch's AdamW makes at one time: two arrays as large as the piece that it
    updates, beside one as large as the piece before."""
    return max((2 * num + before for before, num in pairwise((0, *pieces))), default=0)


def _context_rank_of_most_tokens(plan: RunPlan) -> int:
    """By the response tokens of a row that fills the plan."""
    degrees, prompt = plan.layout.student, plan.data.max_length
    learnt = range(prompt - 1, prompt - 1 + plan.sampling.max_completion_length)
    places = [row_share(degrees, rank).places(learnt.stop + 1) for rank in range(degrees.context)]
    return max(range(degrees.context), key=lambda rank: sum(p in learnt for p in places[rank]))


def _trace_rank(plan: RunPlan, rank: int) -> tuple[dict[Phase, int], list[list[int]]]:
    """Peaks by phase, and the pieces that each place on the data axis owns."""
    with fake_world(plan.layout, rank, NUM_LOSS_CHUNKS * plan.objective.chunk_tokens) as mesh:
        step = build_step(plan, mesh)
        with step.meter:
            step.warm_up()
            step.run()
        return step.peak_bytes, step.trainer.owned_pieces()


def build_step(plan: RunPlan, mesh: Mesh) -> "TracedStep":
    """Both models, the loss and the optimizer of this rank, without weights."""
    student = build_chunks(plan.models.student, plan.layout.student, mesh, trainable=True)
    teacher_mesh = init_teacher_mesh(plan.layout, mesh)
    teacher = build_chunks(plan.models.teacher, plan.layout.teacher, teacher_mesh, trainable=False)
    meter = LiveBytes(mesh.device)
    residency = Residency(mesh.device, meter)
    if plan.models.teacher.offload is Tier.HOST:
        keep_teacher_on_host(residency, teacher)
    trainer = Trainer(student, plan.optimizer, mesh, plan.training.num_steps)
    parameters = [parameter for chunk in (*student, *teacher) for parameter in chunk.parameters()]
    meter.adopt([*parameters, *trainer.resident_tensors()])
    vocab_size = plan.models.vocab_size
    distillation = Distillation(teacher, plan.objective, vocab_size, mesh.tensor_group)
    share = row_share(plan.layout.student, mesh.context_rank)
    return TracedStep(plan, distillation, residency, trainer, meter, share)


@dataclass(slots=True)
class TracedStep:
    """One rank, ready to step on rows that fill the plan."""

    plan: RunPlan
    distillation: Distillation
    residency: Residency
    trainer: Trainer
    meter: LiveBytes
    share: RowShare
    peak_bytes: dict[Phase, int] = field(default_factory=dict)

    def warm_up(self) -> None:
        """A short step, which makes what stays."""
        self._walk(self._unit, response_tokens=1)

    def run(self) -> None:
        """A full step; `peak_bytes` holds its peaks."""
        self._walk(self.plan.batch.num_micro_batches, self.plan.sampling.max_completion_length)

    def _walk(self, num_micro_batches: int, response_tokens: int) -> None:
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
                        micro_batches += self._collate(num_micro_batches, response_tokens)
                        payloads += self._teacher_forward(micro_batches)
                case AskTeacher():
                    raise AssertionError("a teacher behind a server is not traced: GK590")
                case StudentStep():
                    with self._phase(Phase.STUDENT):
                        self._student_step(micro_batches, payloads)
                        payloads.clear()
                case OptimizerStep():
                    with self._phase(Phase.OPTIMIZER):
                        self.trainer.step()
                case Draw() | Refit() | Generate() | Evaluate() | Checkpoint():
                    continue
                case _:
                    assert_never(action)

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        self.meter.mark_phase()
        yield
        self.peak_bytes[phase] = self.meter.peak_bytes

    def _collate(self, num_micro_batches: int, response_tokens: int) -> list[MicroBatch]:
        """Rows as long as the plan allows, `response_tokens` of each to be learnt."""
        longest = self.plan.data.max_length + self.plan.sampling.max_completion_length
        row = ([0] * (longest - response_tokens), [0] * response_tokens)
        rows = [row] * self.plan.batch.micro_rows
        return [collate(rows, pad_id=0, share=self.share) for _ in range(num_micro_batches)]

    def _teacher_forward(self, micro_batches: list[MicroBatch]) -> list[TeacherPayload | None]:
        """The payload of every micro-batch, those between the first and the last not computed."""
        early, last = micro_batches[: -self._num_repeats], micro_batches[-self._num_repeats :]
        first = teacher_payloads(self.distillation, early[: self._unit])
        others = [_alike(first[0]) for _ in early[self._unit :]]
        return [*first, *others, *teacher_payloads(self.distillation, last)]

    def _student_step(
        self, micro_batches: list[MicroBatch], payloads: list[TeacherPayload | None]
    ) -> None:
        pairs = list(zip(micro_batches, payloads, strict=True))
        num_tokens = sum(batch.num_response_tokens for batch in micro_batches)
        self.trainer.forward_backward(
            pairs[: self._num_repeats],
            lambda chunk, pair: student_forward(
                self.distillation, chunk, *pair, num_tokens, self.plan.objective.sft_alpha
            ),
            shape=tuple(micro_batches[0].tokens_BS.shape),
        )

    @property
    def _unit(self) -> int:
        """Micro-batches that a schedule takes at one time: interleaved ones take a group."""
        degrees = self.plan.layout.student
        return degrees.pipeline if degrees.virtual_pipeline > 1 else 1

    @property
    def _num_repeats(self) -> int:
        """Micro-batches after which a schedule repeats itself: those in flight and one more."""
        degrees = self.plan.layout.student
        return 3 * self._unit if degrees.virtual_pipeline > 1 else degrees.pipeline + 1


def _alike(payload: TeacherPayload | None) -> TeacherPayload | None:
    return None if payload is None else TeacherPayload(payload.states.clone())
