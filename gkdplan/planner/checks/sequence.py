"""Rules of the axes that share a sequence: sequence parallelism and context parallelism.

That both divide a row is no rule: rows are padded to a multiple of what they ask for
(planner/layout.py, token_multiple).
"""

from collections.abc import Iterator

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.laid_out import laid_out
from gkdplan.planner.checks.possible import experts_have_sequence, sequence_has_tensor
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.layout import axis_degrees, token_multiple
from gkdplan.spec.plan import Plan

LARGEST_PADDING = 1 / 4
"""The share of the longest row that padding may add before it is worth a word."""


@rule("GK205")
def sequence_needs_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Sequence parallelism divides tokens over the tensor axis
    (megatron/core/model_parallel_config.py)."""
    for model in laid_out(plan, facts):
        if not sequence_has_tensor(model):
            path = model.path("sequence")
            yield Finding(
                f"{model.name} cannot have sequence parallelism without a tensor axis",
                path,
                label="tokens are divided over the tensor axis, which has one rank",
                help=(f"remove `{path}`, or set `{model.path('tensor')}` above 1",),
            )


@rule("GK224")
def experts_need_sequence(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A layer of experts on a tensor axis trains under sequence parallelism only
    (megatron/core/transformer/moe/moe_layer.py, at run time)."""
    for model in laid_out(plan, facts, lambda shape: shape.moe is None):
        if not experts_have_sequence(model):
            path = model.path("sequence")
            yield Finding(
                "`student` has experts and a tensor axis, and no sequence parallelism",
                path,
                label="every tensor rank would send the same tokens to the experts",
                help=(f"remove `{path}`, or set `{model.path('tensor')}` to 1",),
            )


@rule("GK225", Severity.WARNING)
def rows_are_longer_than_their_padding(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Short rows over many ranks are padded to a multiple that is mostly padding."""
    longest = plan.data.max_length + plan.generation.max_completion_length
    for model in laid_out(plan, facts):
        multiple = token_multiple(axis_degrees(model.parallel, model.world_size))
        padding = -longest % multiple
        if padding > LARGEST_PADDING * longest:
            yield Finding(
                f"rows of {longest:,} tokens are padded to a multiple of {multiple:,}: "
                f"{padding:,} tokens are added",
                model.path("tensor" if model.parallel.context == 1 else "context"),
                label="every rank takes an equal share of a row",
                help=("lower the degree, or let rows be longer",),
            )


RULES = (sequence_needs_tensor, experts_need_sequence, rows_are_longer_than_their_padding)
