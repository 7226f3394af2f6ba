"""Rules of the mesh: the ranks that the axes must divide."""

from collections.abc import Iterator
from itertools import accumulate
from operator import mul

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.degrees import possible_degrees, set_degree
from gkdplan.planner.checks.laid_out import LaidOut, laid_out
from gkdplan.planner.checks.possible import (
    expert_ranks_divide,
    ranks_divide,
)
from gkdplan.planner.checks.rule import Finding, one_of, rule
from gkdplan.spec.plan import Plan


@rule("GK201")
def ranks_divide_into_model_groups(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """world % (tensor x context x pipeline) (megatron/core/parallel_state.py)."""
    for model in laid_out(plan, facts):
        if not ranks_divide(model):
            yield _undivided(plan, facts, model, ("tensor", "context", "pipeline"))


@rule("GK208")
def ranks_divide_into_expert_groups(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """world % (expert_tensor x expert x pipeline) (megatron/core/parallel_state.py)."""
    for model in laid_out(plan, facts):
        if ranks_divide(model) and not expert_ranks_divide(model):
            yield _undivided(plan, facts, model, ("pipeline", "expert_tensor", "expert"))


@rule("GK207", Severity.WARNING)
def tensor_groups_stay_on_a_node(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Tensor parallelism talks in every layer, so its ranks should share a fast link."""
    devices = plan.cluster.devices_per_node
    for model in laid_out(plan, facts):
        if plan.cluster.num_nodes > 1 and devices % model.parallel.tensor:
            path = model.path("tensor")
            degrees = possible_degrees(plan, facts, model.table, "tensor")
            on_a_node = [degree for degree in degrees if devices % degree == 0]
            yield Finding(
                f"{model.name} tensor groups of {model.parallel.tensor} ranks span several nodes",
                path,
                label="every layer would wait for the network between nodes",
                notes=(f"devices_per_node = {devices}",),
                help=(f"set `{path}` to {one_of(on_a_node)}",) if on_a_node else (),
            )


RULES = (
    ranks_divide_into_model_groups,
    ranks_divide_into_expert_groups,
    tensor_groups_stay_on_a_node,
)


def _undivided(plan: Plan, facts: Facts, model: LaidOut, axes: tuple[str, ...]) -> Finding:
    """At the first axis whose degree, with those of the axes before it, does not divide."""
    cluster, degrees = plan.cluster, {axis: getattr(model.parallel, axis) for axis in axes}
    groups = zip(axes, accumulate(degrees.values(), mul), strict=True)
    axis = next(axis for axis, group in groups if model.world_size % group)
    product = " x ".join(f"{name} {num:,}" for name, num in degrees.items() if num > 1)
    return Finding(
        f"{_ranks(model.world_size)} cannot be divided by {product} of {model.name}",
        model.path(axis),
        label="every rank belongs to one group",
        notes=(f"nodes x devices = {cluster.num_nodes:,} x {cluster.devices_per_node:,}",),
        help=set_degree(plan, facts, model, axis),
    )


def _ranks(world_size: int) -> str:
    return "1 rank" if world_size == 1 else f"{world_size:,} ranks"
