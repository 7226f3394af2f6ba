"""What this version cannot do yet with attention from latents, and with experts in groups."""

from collections.abc import Iterator

from gkdplan import __version__
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.laid_out import each_model
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.layout import kernels_of
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Engine, Kernels


@rule("GK590")
def latents_need_kernels_of_torch(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The layers of runtime/megatron/latent_attention.py are Megatron's local ones."""
    if kernels_of(plan, facts.device) is not Kernels.TRANSFORMER_ENGINE:
        return
    for model in each_model(plan, facts):
        (role,) = model.roles
        if model.shape.latent is not None:
            yield _not_yet(
                f"attention from latents, as in {model.shape.family}, with Transformer Engine is",
                f"{role}.model",
                "its layers are built of torch's kernels alone",
                'set `cluster.kernels` to "torch"',
            )


@rule("GK590")
def latents_are_not_in_vllm(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """vLLM caches the latent in place of keys and values."""
    shape = facts.student.shape
    if shape.latent is not None and plan.generation.engine is Engine.VLLM:
        yield _not_yet(
            f"sampling from {shape.family} by vllm is",
            "generation.engine",
            "its weights in the engine, and its cache of latents, are not priced",
            'set it to "megatron"',
        )


@rule("GK590")
def load_balance_knows_the_choice(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Megatron counts what a router would choose by scores alone
    (megatron/core/transformer/moe/moe_utils.py, compute_routing_scores_for_aux_loss)."""
    shape, coefficient = facts.student.shape, plan.student.router_aux_loss_coef
    if shape.moe is None or coefficient == 0:
        return
    if shape.moe.routing.num_groups > 1 or shape.moe.routing.has_choice_bias:
        yield _not_yet(
            f"a load balancing loss for the routers of {shape.family} is",
            "student.router_aux_loss_coef",
            "it would count what their scores alone would choose, and not what they choose",
            "remove it",
        )


RULES = (
    latents_need_kernels_of_torch,
    latents_are_not_in_vllm,
    load_balance_knows_the_choice,
)


def _not_yet(what: str, path: str, why: str, help: str) -> Finding:
    message = f"{what} not yet available in gkdplan {__version__}"
    return Finding(message, path, label="not yet available", notes=(why,), help=(help,))
