"""Named seconds of the teacher, student and optimizer phases of one global batch on one rank.

M micro-batches through p stages of v chunks take M + (p - 1) / v times the slowest stage: the
second part is the bubble (Narayanan et al., "Efficient large-scale language model training on GPU
clusters using Megatron-LM", 2021, section 2.2).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import gcd

from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.model import fused_of, rank_model
from gkdplan.planner.memory.payload import payload_bytes
from gkdplan.planner.memory.stream import streamed_bytes
from gkdplan.planner.offload import PINNED_EFFICIENCY
from gkdplan.planner.timing.flops import (
    active_elements,
    active_mlp_elements,
    head_flops,
    mean_of_layers,
)
from gkdplan.planner.timing.machine import Machine
from gkdplan.planner.timing.stage import Stage, stages_of
from gkdplan.planner.timing.vision import looking_s
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import Recompute
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype, Payload, Tier

COMPUTE = "compute"
LOOKING = "images"
RECOMPUTE = "recompute"
LOSS = "loss"
ACCUMULATION = "gradient accumulation"
TENSOR = "tensor communication"
CONTEXT = "exposed context ring"
EXPERT = "expert all-to-all"
PIPELINE = "pipeline transfers"
BUBBLE = "bubble"
DATA = "exposed data communication"
UPDATE = "update"
AVERAGE = "average"
PAYLOAD = "payload exchange"
STREAM = "exposed streaming of weights"

LOSS_PASSES = 12
"""Reads and writes of a float32 element of the vocabulary on each side of the divergence: as
runtime/loss/{distribution,rules}.py walk them."""
UPDATE_BYTES = {"gloo": 80, "nccl": 28}
"""Of float32 gradients, main weights and moments an owned element: torch's AdamW makes about 20
passes; a fused one reads four arrays and writes three."""
AVERAGE_BYTES = 16
"""Of an owned element that is averaged: two float32 arrays are read, one of them is written, and
the teacher's weight is."""
PAGEABLE_EFFICIENCY = 0.3
"""The share of a link's bandwidth that a copy to host memory that is not pinned reaches."""

Seconds = Mapping[str, float]


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
            LOOKING: _looking_s(draft, stage),
            TENSOR: stage.tensor_s(4),
            CONTEXT: max(0.0, stage.ring_s() - stage.attention_s()),
            EXPERT: stage.expert_s(2),
            PIPELINE: stage.transfer_s(),
        }

    phase = _pipelined(stages, of_micro_batch, num_micro_batches, degrees)
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


def student_seconds(draft: Draft, machine: Machine) -> Seconds:
    """Forward, loss and backward of every micro-batch, then the reduction of the gradients, which
    waits for the last of them."""
    degrees, rows = draft.layout.student, draft.batch.micro_rows
    stages = stages_of(draft.models.student, degrees, machine, rows, draft.sequence_tokens(degrees))
    phase = _pipelined(
        stages,
        lambda stage: _student_micro_batch(draft, stage),
        draft.batch.num_micro_batches,
        degrees,
    )
    return {**phase, DATA: max(_reduction_s(draft, stage) for stage in stages)}


def optimizer_seconds(draft: Draft, machine: Machine) -> Seconds:
    """The update of the fullest stage, and the gather of its new weights."""
    degrees = draft.layout.student
    stages = stages_of(draft.models.student, degrees, machine, 1, 1)
    bytes_of_update = UPDATE_BYTES[draft.layout.backend]

    def update_s(stage: Stage) -> float:
        dense, expert = stage.trained_elements, stage.trained_expert_elements
        owned = dense + expert
        if draft.optimizer.distributed:
            owned = dense / (degrees.data * degrees.context) + expert / degrees.expert_data
        norm_and_zeros = 2 * Dtype.FP32.num_bytes * (dense + expert)
        return machine.memory_s(owned * bytes_of_update + norm_and_zeros)

    slowest = max(stages, key=update_s)
    gather = _data_s(slowest, slowest.model.dtype.num_bytes) if draft.optimizer.distributed else 0.0
    seconds = {UPDATE: update_s(slowest), DATA: gather}
    if draft.models.teacher.ema_decay is not None:
        seconds[AVERAGE] = _average_s(draft, slowest)
    return seconds


def _average_s(draft: Draft, stage: Stage) -> float:
    """The student's main weights into the teacher's average: read and written in float32, on the
    host after a copy from the device; then its pieces go to all who hold them, as a sum."""
    degrees, machine = stage.degrees, stage.machine
    width, trained = stage.model.dtype.num_bytes, stage.trained_elements
    is_divided = draft.optimizer.distributed and degrees.data * degrees.context > 1
    owned = trained / (degrees.data * degrees.context) if is_divided else trained
    seconds = machine.memory_s(owned * AVERAGE_BYTES)
    if is_divided:
        seconds += 2 * _data_s(stage, width)
    if draft.models.teacher.offload is Tier.HOST and draft.layout.backend == "nccl":
        copied = owned * Dtype.FP32.num_bytes + (2 * trained * width if is_divided else 0)
        seconds += copied / (PAGEABLE_EFFICIENCY * machine.device.host_link_bandwidth)
    return seconds


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


def _pipelined(
    stages: tuple[Stage, ...],
    of_micro_batch: Callable[[Stage], Seconds],
    num_micro_batches: int,
    degrees: AxisDegrees,
) -> Seconds:
    """Every micro-batch at the pace of the slowest stage, and the bubble."""
    slowest = max(map(of_micro_batch, stages), key=lambda terms: sum(terms.values()))
    phase = {name: num_micro_batches * seconds for name, seconds in slowest.items()}
    if degrees.pipeline > 1:
        num_idle = (degrees.pipeline - 1) / degrees.virtual_pipeline
        phase[BUBBLE] = num_idle * sum(slowest.values())
    return phase


def _student_micro_batch(draft: Draft, stage: Stage) -> Seconds:
    """Forward and backward of the layers and of their adapters."""
    machine, sequence = stage.machine, stage.degrees.sequence
    again = recomputed_share(draft.models.student.recompute, stage)
    forward_s, attention_s = stage.forward_s(), stage.attention_s()
    num_gradients = stage.trained_elements + stage.trained_expert_elements
    num_collectives = 8 + (2 if sequence and stage.trains_base else 0)
    return {
        COMPUTE: forward_s + stage.backward_s() + 3 * stage.adapters_s(),
        LOOKING: _looking_s(draft, stage),
        RECOMPUTE: again * forward_s,
        LOSS: _loss_s(draft, stage) if stage.is_last else 0.0,
        ACCUMULATION: machine.memory_s(2 * Dtype.FP32.num_bytes * num_gradients),
        TENSOR: stage.tensor_s(num_collectives) + again * stage.tensor_s(4),
        CONTEXT: max(0.0, (3 + again) * (stage.ring_s() - attention_s)),
        EXPERT: stage.expert_s(4) + again * stage.expert_s(2),
        PIPELINE: 2 * stage.transfer_s(),
    }


def _looking_s(draft: Draft, stage: Stage) -> float:
    """Where the tower is."""
    if not stage.is_first:
        return 0.0
    return looking_s(draft, stage.model, stage.machine, stage.rows)


def recomputed_share(recompute: Recompute, stage: Stage) -> float:
    """Of a stage's forward that the backward makes again; selective modules are counted as the
    attention of scores and values, or as the MLP, by their FLOPs."""
    if recompute.granularity == "full":
        if recompute.method == "uniform" or recompute.num_layers is None:
            return 1.0
        return min(1.0, recompute.num_layers * stage.degrees.virtual_pipeline / stage.num_layers)
    if recompute.granularity == "selective":
        return _selective_share(recompute, stage)
    return 0.0


def _selective_share(recompute: Recompute, stage: Stage) -> float:
    shape = stage.model.shape
    attention = (shape.query_size + shape.context_size) * stage.tokens_of_row
    modules = recompute.modules or ("core_attn",)

    def mlp_again(kind: ModelShape) -> int:
        module = "mlp" if kind.moe is None else "moe"
        return 2 * active_mlp_elements(kind) if module in modules else 0

    again = attention * ("core_attn" in modules) + mean_of_layers(shape, mlp_again)
    return again / (attention + 2 * active_elements(shape))


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
    seconds = num_passes * _data_s(stage, width)
    tied_here = stage.model.shape.tied_embeddings and stage.is_first and stage.trains_base
    if stage.degrees.pipeline > 1 and tied_here:
        embedding = stage.vocab_rows * stage.model.shape.hidden_size * width
        seconds += 2 * stage.machine.collective_s(embedding, 2, draft.layout.world_size)
    return seconds


def _data_s(stage: Stage, width: int) -> float:
    """One gather or scatter of what a stage trains, experts over their own data axis."""
    degrees, machine = stage.degrees, stage.machine
    ranks_of_a_stage = degrees.tensor * degrees.context * degrees.data
    dense = machine.collective_s(
        width * stage.trained_elements, degrees.data * degrees.context, ranks_of_a_stage
    )
    expert = machine.collective_s(
        width * stage.trained_expert_elements, degrees.expert_data, ranks_of_a_stage
    )
    return dense + (expert if stage.trained_expert_elements else 0.0)
