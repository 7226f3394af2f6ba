"""Seconds of the optimizer's phase on one rank."""

from gkdplan.planner.draft import Draft
from gkdplan.planner.timing.data_axis import data_s
from gkdplan.planner.timing.machine import Machine
from gkdplan.planner.timing.stage import Stage, stages_of
from gkdplan.planner.timing.terms import AVERAGE, DATA, UPDATE, Seconds
from gkdplan.vocab import Dtype, Tier

UPDATE_BYTES = {"gloo": 80, "nccl": 28}
"""Of float32 gradients, main weights and moments an owned element: torch's AdamW makes about 20
passes; a fused one reads four arrays and writes three."""
AVERAGE_BYTES = 16
"""Of an owned element that is averaged: two float32 arrays are read, one of them is written, and
the teacher's weight is."""
PAGEABLE_EFFICIENCY = 0.3
"""The share of a link's bandwidth that a copy to host memory that is not pinned reaches."""


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
    gather = data_s(slowest, slowest.model.dtype.num_bytes) if draft.optimizer.distributed else 0.0
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
        seconds += 2 * data_s(stage, width)
    if draft.models.teacher.offload is Tier.HOST and draft.layout.backend == "nccl":
        copied = owned * Dtype.FP32.num_bytes + (2 * trained * width if is_divided else 0)
        seconds += copied / (PAGEABLE_EFFICIENCY * machine.device.host_link_bandwidth)
    return seconds
