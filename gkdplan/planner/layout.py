"""Which rank does what: the mesh of each model over the same ranks."""

from collections.abc import Iterator
from itertools import pairwise
from math import lcm

from gkdplan.facts.model import Device
from gkdplan.runplan.layout import AxisDegrees, Layout, RankClass
from gkdplan.runplan.rendezvous import Rendezvous
from gkdplan.spec.models import Parallel
from gkdplan.spec.plan import Cluster, Plan
from gkdplan.vocab import Kernels


def assign_ranks(plan: Plan, device: Device) -> Layout:
    """The layout of both models; the checks have found it possible.

    Ranks follow Megatron's order, tensor fastest, then context, data and pipeline
    (megatron/core/parallel_state.py, order "tp-cp-ep-dp-pp"), so neighbours share a tensor group
    and a stage is a run of ranks. Within a stage every rank holds an equal shard of every layer:
    a class is a stage of the student and a stage of the teacher.
    """
    world_size = world_size_of(plan.cluster)
    return Layout(
        device=device.key,
        backend=device.backend,
        kernels=kernels_of(plan, device),
        num_nodes=plan.cluster.num_nodes,
        devices_per_node=plan.cluster.devices_per_node,
        world_size=world_size,
        student=axis_degrees(plan.student.parallel, world_size),
        teacher=axis_degrees(teacher_parallel(plan), world_size),
        classes=tuple(_classes(plan, world_size)),
        rendezvous=Rendezvous(
            plan.cluster.master_port,
            plan.cluster.join_timeout_s,
            plan.cluster.collective_timeout_s,
        ),
    )


def kernels_of(plan: Plan, device: Device) -> Kernels:
    """As the plan says; where it says nothing, Transformer Engine's wherever there are such."""
    has_others = device.backend == "nccl"
    return plan.cluster.kernels or (Kernels.TRANSFORMER_ENGINE if has_others else Kernels.TORCH)


def stage_layers(num_layers: int, parallel: Parallel) -> tuple[tuple[int, ...], ...]:
    """The layers of each stage, chunk by chunk: equal shares, but where the plan says otherwise
    (megatron/core/transformer/transformer_block.py, get_num_layers_to_build)."""
    chunks = parallel.virtual_pipeline
    return tuple((num // chunks,) * chunks for num in layers_of_stages(num_layers, parallel))


def layers_of_stages(num_layers: int, parallel: Parallel) -> tuple[int, ...]:
    """The layers of each stage: those that the plan gives, and equal shares of what is left.

    Their sum is `num_layers` where the checks have found the layout possible.
    """
    if parallel.stage_layers is not None:
        return parallel.stage_layers
    ends = {0: parallel.first_stage_layers, parallel.pipeline - 1: parallel.last_stage_layers}
    given = {stage: num for stage, num in ends.items() if num is not None}
    num_equal = max(1, parallel.pipeline - len(given))
    equal = (num_layers - sum(given.values())) // num_equal
    return tuple(given.get(stage, equal) for stage in range(parallel.pipeline))


def _classes(plan: Plan, world_size: int) -> Iterator[RankClass]:
    """One for each run of ranks between the borders of stages, of either model."""
    student = world_size // plan.student.parallel.pipeline
    teacher = world_size // teacher_parallel(plan).pipeline
    borders = sorted({*range(0, world_size, student), *range(0, world_size, teacher), world_size})
    for start, end in pairwise(borders):
        yield RankClass(((start, end),), stage=start // student, teacher_stage=start // teacher)


def world_size_of(cluster: Cluster) -> int:
    return cluster.num_nodes * cluster.devices_per_node


def teacher_parallel(plan: Plan) -> Parallel:
    """The teacher's own axes, or the student's where the plan leaves them out."""
    return plan.student.parallel if plan.teacher.parallel is None else plan.teacher.parallel


def axis_degrees(parallel: Parallel, world_size: int) -> AxisDegrees:
    """Data parallelism takes the ranks that the other axes leave."""
    return AxisDegrees(
        tensor=parallel.tensor,
        sequence=is_sequence_parallel(parallel),
        data=world_size // (parallel.tensor * parallel.pipeline * parallel.context),
        pipeline=parallel.pipeline,
        virtual_pipeline=parallel.virtual_pipeline,
        context=parallel.context,
        expert=parallel.expert,
        expert_tensor=parallel.expert_tensor,
    )


def token_multiple(degrees: AxisDegrees) -> int:
    """What the length of a padded row is a multiple of.

    A context rank takes two pieces of the row, an early and a late one
    (megatron/core/utils.py, get_batch_on_this_cp_rank); sequence parallelism divides a context
    rank's share over the tensor axis (megatron/core/tensor_parallel/mappings.py).
    """
    num_shares = degrees.tensor if degrees.sequence else 1
    return num_shares if degrees.context == 1 else degrees.context * lcm(2, num_shares)


def is_sequence_parallel(parallel: Parallel) -> bool:
    """As the plan says; where it says nothing, wherever there is a tensor axis."""
    return parallel.tensor > 1 if parallel.sequence is None else parallel.sequence
