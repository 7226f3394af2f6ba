"""Seconds of the teacher's forward of one global batch on one rank."""

from dataclasses import replace
from math import gcd

from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.fused import fused_of
from gkdplan.planner.memory.model import rank_model
from gkdplan.planner.memory.payload import payload_bytes
from gkdplan.planner.memory.stream import streamed_bytes
from gkdplan.planner.offload import PINNED_EFFICIENCY
from gkdplan.planner.timing.flops import head_flops
from gkdplan.planner.timing.machine import Machine
from gkdplan.planner.timing.stage import Stage, stages_of
from gkdplan.planner.timing.terms import (
    COMPUTE,
    CONTEXT,
    EXPERT,
    LOOKING,
    PAYLOAD,
    PIPELINE,
    STREAM,
    TENSOR,
    Seconds,
    pipelined,
)
from gkdplan.planner.timing.vision import looking_of_stage_s
from gkdplan.vocab import Payload


def teacher_seconds(draft: Draft, machine: Machine) -> Seconds:
    """The forward of all of a rank's rows; nothing is kept but the payload. How fast a server
    answers is not predicted."""
    if draft.models.teacher.server is not None:
        return {}
    degrees = draft.layout.teacher
    rows = draft.batch.micro_rows
    num_micro_batches = max(1, draft.batch.global_rows // (rows * degrees.data))
    stages = stages_of(draft.models.teacher, degrees, machine, rows, draft.sequence_tokens(degrees))
    wants_logits = draft.objective.payload is not Payload.HIDDEN
    num_head_tokens = draft.batch.micro_rows * draft.response_tokens(degrees) if wants_logits else 0

    def of_micro_batch(stage: Stage) -> Seconds:
        head = num_head_tokens if stage.is_last else 0
        flops = head_flops(stage.model.shape, head, stage.model.padded_vocab_size) / degrees.tensor
        return {
            COMPUTE: stage.forward_s() + machine.compute_s(flops, stage.model.dtype),
            LOOKING: looking_of_stage_s(draft, stage),
            TENSOR: stage.tensor_s(4),
            CONTEXT: max(0.0, stage.ring_s() - stage.attention_s()),
            EXPERT: stage.expert_s(2),
            PIPELINE: stage.transfer_s(),
        }

    phase = pipelined(stages, of_micro_batch, num_micro_batches, degrees)
    if draft.models.teacher.stream:
        phase = {**phase, STREAM: _streaming_s(draft, machine, sum(phase.values()))}
    if degrees == draft.layout.student:
        return phase
    return {**phase, PAYLOAD: payload_exchange_s(draft, machine)}


def _streaming_s(draft: Draft, machine: Machine, compute_s: float) -> float:
    """Of a teacher whose layers come from the host for each micro-batch, what the layers' own work
    does not hide: on a CPU, where the copies are work too, all."""
    device = machine.device
    num_bytes = draft.num_micro_batches(draft.layout.teacher) * streamed_bytes(draft)
    copies_s = num_bytes / (PINNED_EFFICIENCY * device.host_link_bandwidth)
    return max(0.0, copies_s - (compute_s if device.backend == "nccl" else 0.0))


def payload_exchange_s(draft: Draft, machine: Machine) -> float:
    """The payload of all rows sent from the teacher's last stage to the student's, whose layouts
    differ: as if none of it lay where it is needed, and no faster than the fewer of both send or
    receive. The ranks that share rows are consecutive where neither model has a pipeline."""
    layout = draft.layout
    of_teacher, of_student = layout.teacher, layout.student
    teacher = rank_model(
        draft.models.teacher, of_teacher, fused_of(layout), of_teacher.pipeline - 1
    )
    at_student = replace(teacher, tensor=of_student.tensor)
    num_tokens = draft.rows_per_rank * draft.response_tokens(of_student)
    num_bytes = payload_bytes(at_student, draft.objective, num_tokens)
    has_stages = of_teacher.pipeline > 1 or of_student.pipeline > 1
    span = layout.world_size // (1 if has_stages else gcd(of_teacher.data, of_student.data))
    sent_of_received = max(1.0, of_teacher.pipeline / of_student.pipeline)
    latency_s = draft.batch.num_micro_batches * machine.assumed.collective_latency_s
    return machine.link_s(num_bytes * sent_of_received, span) + latency_s
