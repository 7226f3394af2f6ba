"""All rules over the plan and the facts, before anything is computed from them."""

from gkdplan.diagnostics import Diagnostic
from gkdplan.facts.model import Facts
from gkdplan.planner.checks import (
    availability,
    distillation,
    effects,
    families,
    fit,
    latents,
    layout,
    lora,
    mixing,
    prompts,
    samples,
    schedule,
    server,
    tokens,
    vision,
    vllm,
)
from gkdplan.spec.plan import Plan

RULES = (
    *layout.RULES,
    *vllm.RULES,
    *fit.RULES,
    *tokens.RULES,
    *vision.RULES,
    *distillation.RULES,
    *mixing.RULES,
    *samples.RULES,
    *server.RULES,
    *schedule.RULES,
    *prompts.RULES,
    *availability.RULES,
    *families.RULES,
    *latents.RULES,
    *effects.RULES,
)


def check_declaration(plan: Plan, facts: Facts) -> tuple[Diagnostic, ...]:
    """The findings of every rule, all at once."""
    return tuple(finding for rule in RULES for finding in rule(plan, facts))


def check_plan_alone(plan: Plan) -> tuple[Diagnostic, ...]:
    """The findings that need no facts, for a plan whose models or files are not there."""
    rules = (*availability.RULES, *lora.PLAN_RULES)
    return tuple(finding for rule in rules for finding in rule(plan))
