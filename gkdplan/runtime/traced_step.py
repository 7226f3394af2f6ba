"""One rank's models, loss and optimizer, ready to step on rows that fill the plan."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import lcm
from typing import Any, assert_never

from gkdplan.runplan.layout import AxisDegrees
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
from gkdplan.runtime.data.batch import MicroBatch, Row
from gkdplan.runtime.data.deal import Deal
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.mesh import Mesh, init_teacher_mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.residency import Residency, keep_teacher_on_host, let_student_rest
from gkdplan.runtime.student import student_forward
from gkdplan.runtime.teacher.blank_answers import BlankTeacher
from gkdplan.runtime.teacher.head import head_of_loss
from gkdplan.runtime.teacher.payload import TeacherPayload, teacher_payloads
from gkdplan.runtime.teacher.resharding import reshard, resharding_of
from gkdplan.runtime.teacher.scores import Question
from gkdplan.runtime.vision.blank_images import BlankEyes, image_of_row
from gkdplan.runtime.vision.images import Eyes
from gkdplan.vocab import Phase, Role, Tier


def build_step(plan: RunPlan, mesh: Mesh) -> "TracedStep":
    """Both models, the loss and the optimizer of this rank, without weights."""
    student = build_chunks(plan.models.student, plan.layout.student, mesh, trainable=True)
    teacher_mesh = init_teacher_mesh(plan.layout, mesh)
    teacher = _build_teacher(plan, teacher_mesh, student)
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
    head = head_of_loss(plan, mesh, teacher) if teacher else None
    if head is not None:
        meter.adopt([head])
    softcap = plan.models.teacher.shape.logit_softcap
    distillation = Distillation(
        teacher, plan.objective, vocab_size, mesh.tensor_group, head, softcap
    )
    return TracedStep(plan, distillation, residency, trainer, average, meter, mesh)


def _build_teacher(plan: RunPlan, mesh: Mesh, student: list[Any]) -> list[Any]:
    """None of a teacher behind a server."""
    model = plan.models.teacher
    if model.server is not None:
        return []
    if model.is_students_base:
        return student
    return build_chunks(model, plan.layout.teacher, mesh, trainable=False)


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
                    with self._phase(Phase.TEACHER):
                        micro_batches += self._deal(Role.STUDENT, batches)
                        payloads += self._ask_teacher(batches[: len(micro_batches)])
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
        image, vision = image_of_row(self.plan), self.plan.models.student.shape.vision
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

    def _ask_teacher(self, batches: list[list[Row]]) -> list[TeacherPayload | None]:
        """The payload of every micro-batch of this rank's."""
        server = self.plan.models.teacher.server
        assert server is not None, "only servers are asked"
        questions = [[Question(row.prompt, row.response, None) for row in rows] for rows in batches]
        return BlankTeacher(self.plan, server, self.mesh).payloads(questions)

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
