"""The live bytes of a step, counted without weights, data or a second process.

The plan's models, loss and optimizer run as they do in a run, on fake tensors of rows that fill
the plan. What repeats itself byte for byte is run twice, not to its end: the first and the last
micro-batch, and two chunks of the loss. A short step before the one that is counted makes what
stays: Adam's moments and Megatron's buffers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import assert_never

import torch

from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import (
    Checkpoint,
    Draw,
    Evaluate,
    Generate,
    Move,
    OptimizerStep,
    StudentStep,
    TeacherForward,
)
from gkdplan.runtime.data.batch import MicroBatch, collate
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.fake_world import fake_world
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.residency import Residency, keep_teacher_on_host
from gkdplan.runtime.student import student_loss
from gkdplan.runtime.teacher.payload import TeacherPayload, teacher_payload
from gkdplan.vocab import Phase, Tier

NUM_REPEATS = 2
"""How often what repeats itself is run."""


def trace(plan: RunPlan) -> dict[Phase, int]:
    """Peak live bytes of the phases teacher, student and optimizer on the rank where they are most.

    `plan.layout.backend` must be "gloo". Where the optimizer's state is divided over the data axis
    ranks differ: beside rank 0 those are traced that own most and that update the largest piece.
    """
    first, pieces = _trace_rank(plan, 0)
    by_total = max(range(len(pieces)), key=lambda rank: sum(pieces[rank]))
    by_piece = max(range(len(pieces)), key=lambda rank: max(pieces[rank], default=0))
    others = [
        _trace_rank(plan, data_rank * plan.layout.student.tensor)[0]
        for data_rank in {by_total, by_piece} - {0}
    ]
    return {phase: max(peaks[phase] for peaks in (first, *others)) for phase in first}


def _trace_rank(plan: RunPlan, rank: int) -> tuple[dict[Phase, int], list[list[int]]]:
    """Peaks by phase, and the pieces that each place on the data axis owns."""
    with fake_world(plan.layout, rank, NUM_REPEATS * plan.objective.chunk_tokens) as mesh:
        step = _build(plan, mesh)
        with step.meter:
            step.run(num_micro_batches=1, response_tokens=1)
            step.run(plan.batch.num_micro_batches, plan.sampling.max_completion_length)
        return step.peak_bytes, step.trainer.owned_pieces()


def _build(plan: RunPlan, mesh: Mesh) -> "_Step":
    student = build_model(plan.models.student, plan.layout.student, mesh, trainable=True)
    teacher = build_model(plan.models.teacher, plan.layout.teacher, mesh, trainable=False)
    meter = LiveBytes(mesh.device)
    residency = Residency(mesh.device, meter)
    if plan.models.teacher.offload is Tier.HOST:
        keep_teacher_on_host(residency, teacher)
    trainer = Trainer(student, plan.optimizer, mesh, plan.training.num_steps)
    meter.adopt([*student.parameters(), *teacher.parameters(), *trainer.resident_tensors()])
    vocab_size = plan.models.vocab_size
    distillation = Distillation(teacher, plan.objective, vocab_size, mesh.tensor_group)
    return _Step(plan, distillation, residency, trainer, meter)


@dataclass(slots=True)
class _Step:
    """One rank, ready to step."""

    plan: RunPlan
    distillation: Distillation
    residency: Residency
    trainer: Trainer
    meter: LiveBytes
    peak_bytes: dict[Phase, int] = field(default_factory=dict)

    def run(self, num_micro_batches: int, response_tokens: int) -> None:
        """Walk the plan's steps; `peak_bytes` holds those of the latest walk."""
        micro_batches: list[MicroBatch] = []
        payloads: list[TeacherPayload] = []
        for action in self.plan.steps:
            match action:
                case Move():
                    self.residency.apply(action)
                case TeacherForward():
                    with self._phase(Phase.TEACHER):
                        micro_batches += self._collate(num_micro_batches, response_tokens)
                        payloads += self._teacher_forward(micro_batches)
                case StudentStep():
                    with self._phase(Phase.STUDENT):
                        self._student_step(micro_batches, payloads)
                        payloads.clear()
                case OptimizerStep():
                    with self._phase(Phase.OPTIMIZER):
                        self.trainer.step()
                case Draw() | Generate() | Evaluate() | Checkpoint():
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
        return [collate(rows, pad_id=0) for _ in range(num_micro_batches)]

    def _teacher_forward(self, micro_batches: list[MicroBatch]) -> list[TeacherPayload]:
        """The payload of every micro-batch, those between the first and the last not computed."""
        first = teacher_payload(self.distillation, micro_batches[0])
        others = [
            TeacherPayload(torch.empty_like(first.states))
            for _ in range(len(micro_batches) - NUM_REPEATS)
        ]
        last = [teacher_payload(self.distillation, batch) for batch in micro_batches[1:][-1:]]
        return [first, *others, *last]

    def _student_step(
        self, micro_batches: list[MicroBatch], payloads: list[TeacherPayload]
    ) -> None:
        pairs = list(zip(micro_batches, payloads, strict=True))
        num_tokens = sum(batch.num_response_tokens for batch in micro_batches)
        self.trainer.forward_backward(
            pairs[:NUM_REPEATS],
            lambda model, pair: student_loss(self.distillation, model, *pair, num_tokens),
        )
