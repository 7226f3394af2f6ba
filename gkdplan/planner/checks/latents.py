"""What this version cannot do yet with attention from latents, and with experts in groups."""

from collections.abc import Iterator

from gkdplan import __version__
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.laid_out import each_model
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.layout import kernels_of
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Engine, Kernels

LATENT_NORM_EPS = 1e-6
"""As in runtime/megatron/latent_attention.py."""


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
def latents_in_vllm_have_norms_of_one_kind(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """transformers has 1e-6 in the norms of latents whatever `rms_norm_eps` is, and vLLM has that
    (vllm/model_executor/models/deepseek_v2.py)."""
    asked = []
    if plan.generation.engine is Engine.VLLM:
        asked.append((facts.student, "generation.engine", 'set it to "megatron"'))
    if plan.teacher.server is not None:
        asked.append((facts.teacher, "teacher.server", "remove it"))
    for model, path, mend in asked:
        shape = model.shape
        if shape.latent is not None and shape.norm_eps != LATENT_NORM_EPS:
            yield _not_yet(
                f"{shape.family} whose `rms_norm_eps` is {shape.norm_eps:g} in vllm is",
                path,
                f"the norms of its latents have {LATENT_NORM_EPS:g}, and in vllm that of the rest",
                mend,
            )


RULES = (
    latents_need_kernels_of_torch,
    latents_in_vllm_have_norms_of_one_kind,
)


def _not_yet(what: str, path: str, why: str, help: str) -> Finding:
    message = f"{what} not yet available in gkdplan {__version__}"
    return Finding(message, path, label="not yet available", notes=(why,), help=(help,))
