"""The degrees of an axis that keep all its rules: what help is made of, and search."""

from collections.abc import Callable, Iterable

from gkdplan.facts.model import Facts
from gkdplan.planner.checks.laid_out import LaidOut, each_model
from gkdplan.planner.checks.possible import (
    attention_heads_divide,
    chunks_divide,
    chunks_have_stages,
    ends_leave_layers,
    expert_axis_has_experts,
    expert_ffn_divides,
    expert_ranks_divide,
    expert_tensor_axis_has_experts,
    experts_divide,
    experts_have_sequence,
    ffn_divides,
    given_chunks_divide,
    given_stages_are_whole,
    kv_heads_divide,
    qkv_columns_divide,
    ranks_divide,
    sequence_has_tensor,
    stages_divide,
    whole_experts_are_cut_like_the_rest,
)
from gkdplan.planner.checks.rule import Finding, one_of
from gkdplan.spec.plan import Plan

LARGEST_DEGREE = 4096
"""No larger degree is offered."""
NUM_OFFERED = 6
"""Degrees that a help offers at most."""

_STAGES = (ends_leave_layers, stages_divide, given_stages_are_whole)
_RULES: dict[str, tuple[Callable[[LaidOut], bool], ...]] = {
    "tensor": (
        ranks_divide,
        attention_heads_divide,
        kv_heads_divide,
        qkv_columns_divide,
        ffn_divides,
        sequence_has_tensor,
        experts_have_sequence,
    ),
    "context": (ranks_divide,),
    "pipeline": (
        ranks_divide,
        expert_ranks_divide,
        *_STAGES,
        chunks_divide,
        given_chunks_divide,
        chunks_have_stages,
    ),
    "virtual_pipeline": (chunks_divide, given_chunks_divide, chunks_have_stages),
    "expert": (
        expert_ranks_divide,
        experts_divide,
        expert_axis_has_experts,
        whole_experts_are_cut_like_the_rest,
    ),
    "expert_tensor": (
        expert_ranks_divide,
        expert_ffn_divides,
        expert_tensor_axis_has_experts,
        whole_experts_are_cut_like_the_rest,
    ),
}
"""Axis -> the rules that its degree takes part in."""


def is_possible(model: LaidOut) -> bool:
    """Whether the layout breaks no rule; the batch and recompute have rules of their own."""
    return all(holds(model) for rules in _RULES.values() for holds in rules)


def possible_degrees(plan: Plan, facts: Facts, table: str, axis: str) -> tuple[int, ...]:
    """The degrees of an axis that keep all its rules while the other axes stay as they are."""
    models = [model for model in each_model(plan, facts) if model.table == table]
    largest = min(LARGEST_DEGREE, *(_largest(model, axis) for model in models))
    return tuple(
        degree
        for degree in range(1, largest + 1)
        if all(
            holds(model.with_axes(**{axis: degree})) for model in models for holds in _RULES[axis]
        )
    )


def set_degree(plan: Plan, facts: Facts, model: LaidOut, axis: str) -> tuple[str, ...]:
    """The help that names the nearest possible degrees of an axis, where there are any."""
    degrees = possible_degrees(plan, facts, model.table, axis)
    if not degrees:
        return ()
    offered = one_of(nearest(degrees, getattr(model.parallel, axis)))
    return (f"set `{model.path(axis)}` to {offered}",)


def undivided(
    plan: Plan,
    facts: Facts,
    model: LaidOut,
    axis: str,
    what: str,
    notes: tuple[str, ...],
    label: str,
) -> Finding:
    """The finding about a number of a shape that the degree of an axis does not divide."""
    degree = getattr(model.parallel, axis)
    return Finding(
        f"{model.has} {what}, not divisible by {axis.replace('_', ' ')} degree {degree}",
        model.path(axis),
        label=label,
        notes=notes,
        help=set_degree(plan, facts, model, axis),
    )


def nearest(values: Iterable[int], value: int) -> tuple[int, ...]:
    """At most NUM_OFFERED of the values, those that are nearest, rising."""
    by_distance = sorted(values, key=lambda other: abs(other - value))
    return tuple(sorted(by_distance[:NUM_OFFERED]))


def _largest(model: LaidOut, axis: str) -> int:
    """What a degree cannot exceed in any case."""
    match axis:
        case "tensor":
            return min(model.world_size, model.shape.num_attention_heads)
        case "pipeline":
            return min(model.world_size, model.shape.num_layers)
        case "virtual_pipeline":
            return model.shape.num_layers
        case _:
            return model.world_size
