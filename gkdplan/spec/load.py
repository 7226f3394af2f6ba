"""TOML text -> a Plan, or every finding that stands in its way."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gkdplan.diagnostics import Diagnostic
from gkdplan.spec.contradictions import contradictions
from gkdplan.spec.plan import Plan
from gkdplan.spec.source import Source
from gkdplan.spec.syntax import oversized_integers, syntax_error, too_deep


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plan, or None; `diagnostics` have their places, in the order of the text."""

    plan: Plan | None
    diagnostics: tuple[Diagnostic, ...]
    source: Source


def load_plan(file: str, text: str) -> Loaded:
    """Read a plan; never raises, whatever the text is."""
    try:
        source = Source.parse(file, text)
    except RecursionError:
        return Loaded(None, (too_deep(file),), Source(file, text))
    except ValueError as failure:
        return Loaded(None, (syntax_error(file, text, failure),), Source(file, text))
    if oversized := oversized_integers(source):
        return Loaded(None, oversized, source)
    plan, findings = None, list(contradictions(source))
    try:
        plan = Plan.model_validate(_frozen(source.values), by_alias=True, by_name=False)
    except ValidationError as failure:
        from gkdplan.spec.findings import findings_of

        findings += findings_of(failure, source)
    return Loaded(None if findings else plan, tuple(sorted(findings, key=_position)), source)


def _frozen(value: Any) -> Any:
    """Arrays as tuples, so that nothing can change a plan."""
    match value:
        case dict():
            return {key: _frozen(inner) for key, inner in value.items()}
        case list():
            return tuple(_frozen(inner) for inner in value)
        case _:
            return value


def _position(finding: Diagnostic) -> tuple[int, int]:
    return (finding.span.line, finding.span.column) if finding.span else (0, 0)
