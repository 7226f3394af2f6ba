"""What a rank holds outside torch's allocator: a context, and a communicator for each group."""

from collections.abc import Iterator

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.buffer import COMMUNICATORS, CONTEXT, FIRST, GRAPHS, LAST, Buffer
from gkdplan.runplan.layout import AxisDegrees, Layout
from gkdplan.runplan.model import OptimizerPlan
from gkdplan.runplan.models import ModelPlan, Models

Group = tuple[str | int, ...]
"""A group of Megatron's, and the degrees that say which ranks it holds."""


def overhead_buffers(draft: Draft, device: Device) -> Iterator[Buffer]:
    """Named terms of the device table; a cpu's are 0. An engine over several ranks has a
    communicator of its own (vllm/distributed/device_communicators)."""
    engine = draft.sampling.vllm
    of_engine = 1 if engine is not None and engine.tensor > 1 else 0
    num_groups = len(groups(draft.layout, draft.models, draft.optimizer)) + of_engine
    yield Buffer(CONTEXT, device.context_bytes, FIRST, LAST)
    yield Buffer(COMMUNICATORS, num_groups * device.communicator_bytes, FIRST, LAST)
    if engine is not None:
        yield Buffer(GRAPHS, engine.graph_bytes, FIRST, LAST)


def groups(layout: Layout, models: Models, optimizer: OptimizerPlan) -> set[Group]:
    """Those in which a rank talks: NCCL makes a group's communicator with its first collective,
    also for a group of one rank, and also where another group holds the same ranks.

    Ranks that send one by one, in a pipeline, are taken to do so in their group.
    """
    return {
        ("all ranks",),
        *_of_model(models.student, layout.student),
        *_of_model(models.teacher, layout.teacher),
        *_of_gradients(layout.student),
        *_of_their_norm(layout.student, optimizer),
    }


def _of_model(model: ModelPlan, degrees: AxisDegrees) -> Iterator[Group]:
    """Two models whose axis spans the same ranks share its groups."""
    if degrees.tensor > 1:
        yield "tensor", degrees.tensor
    if degrees.context > 1:
        yield "context", degrees.tensor, degrees.context
    if degrees.pipeline > 1:
        yield "pipeline", degrees.pipeline
    if degrees.pipeline > 1 and model.shape.tied_embeddings:
        yield "embedding", degrees.pipeline
    if degrees.expert_tensor > 1:
        yield "expert tensor", degrees.expert_tensor
    if degrees.expert > 1:
        yield "expert", degrees.expert_tensor, degrees.expert
    if degrees.expert * degrees.expert_tensor > 1:
        yield "experts of a token", degrees.expert_tensor * degrees.expert


def _of_gradients(student: AxisDegrees) -> Iterator[Group]:
    """The ranks of the data and context axes hold the same parameters, but for experts that are
    spread (megatron/core/distributed/distributed_data_parallel.py)."""
    yield "data", student.tensor, student.pipeline
    if student.expert > 1:
        yield "expert data", student.expert_tensor, student.expert, student.pipeline


def _of_their_norm(student: AxisDegrees, optimizer: OptimizerPlan) -> Iterator[Group]:
    """Of all ranks where each holds a part of the optimizer's state, else of one model
    (megatron/core/optimizer/optimizer.py, get_grad_stats_parallel_group)."""
    if optimizer.clip_grad == 0.0:
        return
    if optimizer.distributed:
        yield ("gradient norm",)
    else:
        yield "gradient norm", student.tensor, student.pipeline
