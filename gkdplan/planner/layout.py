"""Which rank does what: the mesh of each model over the same ranks."""

from gkdplan.facts.model import Device
from gkdplan.runplan.model import AxisDegrees, Layout, RankClass
from gkdplan.spec.plan import Cluster, Parallel, Plan


def assign_ranks(plan: Plan, device: Device) -> Layout:
    """The layout of both models; the checks have found it possible.

    Ranks follow Megatron's order, tensor fastest and then data (megatron/core/parallel_state.py,
    order "tp-cp-ep-dp-pp"), so neighbours share a tensor group. Every rank holds an equal shard of
    every layer, hence one class.
    """
    world_size = world_size_of(plan.cluster)
    return Layout(
        device=device.key,
        backend=device.backend,
        num_nodes=plan.cluster.num_nodes,
        devices_per_node=plan.cluster.devices_per_node,
        world_size=world_size,
        student=axis_degrees(plan.student.parallel, world_size),
        teacher=axis_degrees(teacher_parallel(plan), world_size),
        classes=(RankClass(ranks=((0, world_size),), stage=0),),
    )


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
        data=world_size // parallel.tensor,
    )


def is_sequence_parallel(parallel: Parallel) -> bool:
    """As the plan says; where it says nothing, wherever there is a tensor axis."""
    return parallel.tensor > 1 if parallel.sequence is None else parallel.sequence
