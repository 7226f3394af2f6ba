"""What a rank holds outside torch's allocator: a context, and a communicator for each group."""

from collections.abc import Iterator

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.buffer import COMMUNICATORS, CONTEXT, FIRST, GRAPHS, LAST, Buffer
from gkdplan.runplan.layout import AxisDegrees, Layout

Group = tuple[str | int, ...]
"""An axis, and the degrees that say which ranks its groups hold."""


def overhead_buffers(draft: Draft, device: Device) -> Iterator[Buffer]:
    """Named terms of the device table; a cpu's are 0. An engine over several ranks has a
    communicator of its own (vllm/distributed/device_communicators)."""
    engine = draft.sampling.vllm
    of_engine = 1 if engine is not None and engine.tensor > 1 else 0
    num_groups = len(groups(draft.layout)) + of_engine
    yield Buffer(CONTEXT, device.context_bytes, FIRST, LAST)
    yield Buffer(COMMUNICATORS, num_groups * device.communicator_bytes, FIRST, LAST)
    if engine is not None:
        yield Buffer(GRAPHS, engine.graph_bytes, FIRST, LAST)


def groups(layout: Layout) -> set[Group]:
    """Those in which a rank talks: NCCL makes a group's communicator with its first collective.

    Two models whose axis spans the same ranks share its groups; only the student reduces gradients
    over the data axis (megatron/core/parallel_state.py, initialize_model_parallel).
    """
    student, teacher = layout.student, layout.teacher
    all_ranks: set[Group] = {("all ranks",)} if layout.world_size > 1 else set()
    return all_ranks | set(_model_groups(student)) | set(_model_groups(teacher)) | _data(student)


def _model_groups(degrees: AxisDegrees) -> Iterator[Group]:
    if degrees.tensor > 1:
        yield "tensor", degrees.tensor
    if degrees.context > 1:
        yield "context", degrees.tensor, degrees.context
    if degrees.pipeline > 1:
        yield "pipeline", degrees.pipeline
    if degrees.expert_tensor > 1:
        yield "expert tensor", degrees.expert_tensor
    if degrees.expert > 1:
        yield "expert", degrees.expert_tensor, degrees.expert


def _data(student: AxisDegrees) -> set[Group]:
    """The ranks of the data and context axes hold the same parameters; with experts on axes of
    their own, those that hold the same experts are others."""
    found: set[Group] = set()
    if student.data * student.context > 1:
        found.add(("data", student.tensor, student.pipeline))
    if student.expert * student.expert_tensor > 1 and student.expert_data > 1:
        found.add(("expert data", student.expert_tensor, student.expert, student.pipeline))
    return found
