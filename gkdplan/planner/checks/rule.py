"""What a rule of the planner is: a generator of findings under one code."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.facts.model import Facts
from gkdplan.spec.plan import Plan


@dataclass(frozen=True, slots=True)
class Finding:
    """A diagnostic without code and severity, which belong to the rule; fields as there."""

    message: str
    path: str | None
    label: str = ""
    notes: tuple[str, ...] = ()
    help: tuple[str, ...] = ()


Check = Callable[[Plan, Facts], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A generator of findings, named as the rule, under its code; it never raises nor mutates."""

    code: str
    severity: Severity
    find: Check

    def __call__(self, plan: Plan, facts: Facts) -> Iterator[Diagnostic]:
        return _under(self.code, self.severity, self.find(plan, facts))


@dataclass(frozen=True, slots=True)
class PlanRule:
    """A rule over the plan alone: it speaks also where a model or a file is not there."""

    code: str
    severity: Severity
    find: Callable[[Plan], Iterator[Finding]]

    def __call__(self, plan: Plan, facts: Facts | None = None) -> Iterator[Diagnostic]:
        return _under(self.code, self.severity, self.find(plan))


def rule(code: str, severity: Severity = Severity.ERROR) -> Callable[[Check], Rule]:
    """Make a generator of findings a rule."""
    return lambda find: Rule(code, severity, find)


def plan_rule(
    code: str, severity: Severity = Severity.ERROR
) -> Callable[[Callable[[Plan], Iterator[Finding]]], PlanRule]:
    """Make a generator of findings a rule that needs no facts."""
    return lambda find: PlanRule(code, severity, find)


def one_of(values: Iterable[object]) -> str:
    """The values as a choice: "1, 2, 4 or 8"."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def _under(code: str, severity: Severity, findings: Iterator[Finding]) -> Iterator[Diagnostic]:
    for found in findings:
        yield Diagnostic(
            code, severity, found.message, found.path, found.label, found.notes, found.help
        )
