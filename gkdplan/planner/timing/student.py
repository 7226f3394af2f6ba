"""Seconds of the student's forward, loss and backward of one global batch on one rank."""

from gkdplan.planner.draft import Draft
from gkdplan.planner.timing.data_axis import data_s
from gkdplan.planner.timing.flops import head_flops
from gkdplan.planner.timing.machine import Machine
from gkdplan.planner.timing.recompute import recomputed_share
from gkdplan.planner.timing.stage import Stage, stages_of
from gkdplan.planner.timing.terms import (
    ACCUMULATION,
    COMPUTE,
    CONTEXT,
    DATA,
    EXPERT,
    LOOKING,
    LOSS,
    PIPELINE,
    RECOMPUTE,
    TENSOR,
    Seconds,
    pipelined,
)
from gkdplan.planner.timing.vision import looking_of_stage_s
from gkdplan.vocab import Dtype, Payload

LOSS_PASSES = 12
"""Reads and writes of a float32 element of the vocabulary on each side of the divergence: as
runtime/loss/{distribution,rules}.py walk them."""


def student_seconds(draft: Draft, machine: Machine) -> Seconds:
    """Forward, loss and backward of every micro-batch, then the reduction of the gradients, which
    waits for the last of them."""
    degrees, rows = draft.layout.student, draft.batch.micro_rows
    stages = stages_of(draft.models.student, degrees, machine, rows, draft.sequence_tokens(degrees))
    phase = pipelined(
        stages,
        lambda stage: _student_micro_batch(draft, stage),
        draft.batch.num_micro_batches,
        degrees,
    )
    return {**phase, DATA: max(_reduction_s(draft, stage) for stage in stages)}


def _student_micro_batch(draft: Draft, stage: Stage) -> Seconds:
    """Forward and backward of the layers and of their adapters."""
    machine, sequence = stage.machine, stage.degrees.sequence
    again = recomputed_share(draft.models.student.recompute, stage)
    forward_s, attention_s = stage.forward_s(), stage.attention_s()
    num_gradients = stage.trained_elements + stage.trained_expert_elements
    num_collectives = 8 + (2 if sequence and stage.trains_base else 0)
    return {
        COMPUTE: forward_s + stage.backward_s() + 3 * stage.adapters_s(),
        LOOKING: looking_of_stage_s(draft, stage),
        RECOMPUTE: again * forward_s,
        LOSS: _loss_s(draft, stage) if stage.is_last else 0.0,
        ACCUMULATION: machine.memory_s(2 * Dtype.FP32.num_bytes * num_gradients),
        TENSOR: stage.tensor_s(num_collectives) + again * stage.tensor_s(4),
        CONTEXT: max(0.0, (3 + again) * (stage.ring_s() - attention_s)),
        EXPERT: stage.expert_s(4) + again * stage.expert_s(2),
        PIPELINE: 2 * stage.transfer_s(),
    }


def _loss_s(draft: Draft, stage: Stage) -> float:
    """The student's head forward and twice backward, once where it is frozen; the teacher's forward
    where hidden states travel; and the passes of the divergence over the logits of both sides, or
    of the student where the likeliest ids travel."""
    student, teacher = draft.models.student, draft.models.teacher
    tensor = stage.degrees.tensor
    num_tokens = draft.batch.micro_rows * draft.response_tokens(stage.degrees)
    num_passes = 3 if stage.trains_base else 2
    flops = num_passes * head_flops(student.shape, num_tokens, student.padded_vocab_size)
    if draft.objective.payload is Payload.HIDDEN:
        flops += head_flops(teacher.shape, num_tokens, teacher.padded_vocab_size)
    sides = 1 if draft.objective.payload is Payload.TOP_K else 2
    passes = sides * LOSS_PASSES * Dtype.FP32.num_bytes * num_tokens * stage.vocab_rows
    products_s = stage.machine.compute_s(flops / tensor, student.dtype)
    return products_s + stage.machine.memory_s(passes)


def _reduction_s(draft: Draft, stage: Stage) -> float:
    """Float32 gradients over the data axis: scattered, or summed whole; and a tied embedding's
    between the first and the last stage."""
    width = Dtype.FP32.num_bytes
    num_passes = 1 if draft.optimizer.distributed else 2
    seconds = num_passes * data_s(stage, width)
    tied_here = stage.model.shape.tied_embeddings and stage.is_first and stage.trains_base
    if stage.degrees.pipeline > 1 and tied_here:
        embedding = stage.vocab_rows * stage.model.shape.hidden_size * width
        seconds += 2 * stage.machine.collective_s(embedding, 2, draft.layout.world_size)
    return seconds
