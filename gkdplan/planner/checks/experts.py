"""Rules of models with experts."""

from collections.abc import Iterator

from gkdplan import __version__
from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.spec.plan import Plan


@rule("GK591", Severity.WARNING)
def experts_are_run(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The runtime builds dense models only."""
    for role, model in (("student", facts.student), ("teacher", facts.teacher)):
        if model.shape.moe is not None:
            yield Finding(
                f"`gkdplan run` does not yet run models with experts in gkdplan {__version__}",
                f"{role}.model",
                label="planned, but not yet run",
                notes=(f"num_experts = {model.shape.moe.num_experts}, from {model.origin}",),
            )


RULES = (experts_are_run,)
