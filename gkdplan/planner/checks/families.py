"""What this version cannot do yet with the models of some families."""

from collections.abc import Iterator

from gkdplan import __version__
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.laid_out import each_model, laid_out
from gkdplan.planner.checks.rule import Finding, one_of, rule
from gkdplan.planner.layout import kernels_of
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Kernels


@rule("GK590")
def bounded_scores_need_kernels_of_torch(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Megatron hands Transformer Engine no bound for the scores of attention
    (megatron/core/extensions/transformer_engine.py, TEDotProductAttention)."""
    if kernels_of(plan, facts.device) is not Kernels.TRANSFORMER_ENGINE:
        return
    for model in each_model(plan, facts):
        softcap, (role,) = model.shape.attention.softcap, model.roles
        if softcap is not None:
            yield Finding(
                f"attention whose scores are bounded to {softcap:g}, as in {model.shape.family}, "
                f"is not available with Transformer Engine in gkdplan {__version__}",
                f"{role}.model",
                label="not with Transformer Engine",
                help=('set `cluster.kernels` to "torch"',),
            )


@rule("GK590")
def normed_heads_are_not_shared(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A norm over all kv heads needs each of them on one rank of the tensor axis."""
    for model in laid_out(plan, facts, lambda shape: (shape.family, shape.num_kv_heads)):
        heads, degree = model.shape.num_kv_heads, model.parallel.tensor
        if model.shape.qk_norm_of_all_heads and heads % degree:
            divisors = [other for other in range(1, degree) if heads % other == 0]
            yield Finding(
                f"a norm over all {heads} kv heads of {model.shape.family}, which {degree} ranks "
                f"would share, is not yet available in gkdplan {__version__}",
                model.path("tensor"),
                label="not yet available",
                help=(f"set `{model.path('tensor')}` to {one_of(divisors)}",),
            )


RULES = (
    bounded_scores_need_kernels_of_torch,
    normed_heads_are_not_shared,
)
