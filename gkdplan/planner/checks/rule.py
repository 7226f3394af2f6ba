"""What a rule of the planner is: a generator of findings under one code."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps

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


Rule = Callable[[Plan, Facts], Iterator[Diagnostic]]


def rule(
    code: str, severity: Severity = Severity.ERROR
) -> Callable[[Callable[[Plan, Facts], Iterator[Finding]]], Rule]:
    """Make a generator of findings a rule: it never raises and never mutates."""

    def decorate(check: Callable[[Plan, Facts], Iterator[Finding]]) -> Rule:
        @wraps(check)
        def diagnose(plan: Plan, facts: Facts) -> Iterator[Diagnostic]:
            for found in check(plan, facts):
                yield Diagnostic(
                    code, severity, found.message, found.path, found.label, found.notes, found.help
                )

        return diagnose

    return decorate


def one_of(values: Iterable[object]) -> str:
    """The values as a choice: "1, 2, 4 or 8"."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last
