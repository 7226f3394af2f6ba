"""The differences between two run plans, a line each, with what they do to peak and objective."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gkdplan.report.figures import unit_of
from gkdplan.report.words import plural
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.diff import Change, Label, compare, is_result
from gkdplan.runplan.model import RunPlan
from gkdplan.units import format_bytes

_MOST_NAMED = 3
_MEANINGS = {
    Label.SAFE: "changes nothing that is learned",
    Label.RESHARD: "spreads the same state over the ranks anew",
    Label.RESTART: "is another run",
}


def change_list(
    old: RunPlan, new: RunPlan, peak_differences: Mapping[str, int], width: int = 80
) -> str:
    """`restart  objective.beta  0.5 -> 0.0: same peak, another objective`, the gravest first; what
    the labels mean, and what becomes of peak, verdict and objective.

    `peak_differences` are the bytes of each decision alone; it may lack some.
    """
    changes = gravest_first(compare(old, new))
    if not changes:
        return "no differences"
    effects = _effects(changes, peak_differences)
    lines = [
        wrap(f"{change.label:<9}", described(change) + effects.get(change.path, ""), width)
        for change in changes
    ]
    present = [label for label in Label if any(c.label is label for c in changes)]
    legend = "; ".join(f"{label} {_MEANINGS[label]}" for label in reversed(present))
    lines += [
        wrap("", f"{plural(len(changes), 'difference')}: {legend}", width),
        wrap("run        ", _run(old, new), width),
        wrap("peak       ", _peak(old, new), width),
        wrap("objective  ", _objective(changes), width),
    ]
    return "\n".join(lines)


def change_json(
    old: RunPlan, new: RunPlan, peak_differences: Mapping[str, int]
) -> list[dict[str, Any]]:
    """The changes in the order of their paths, with the bytes of their decision alone, or null."""
    return [
        {**asdict(change), "peak_difference_bytes": peak_differences.get(change.decision)}
        for change in compare(old, new)
    ]


def summary_json(old: RunPlan, new: RunPlan) -> dict[str, Any]:
    """Peak, phase and verdict of both, and whether the run and what is learnt are the same."""
    sides = {"old": old.ledger, "new": new.ledger}
    return {
        **{
            name: {
                "peak_bytes": ledger.peak_bytes,
                "peak_phase": ledger.peak_phase,
                "verdict": ledger.verdict,
            }
            for name, ledger in sides.items()
        },
        "same_run": old.fingerprint == new.fingerprint,
        "same_objective": not any(change.objective for change in compare(old, new)),
    }


def gravest_first(changes: Sequence[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: -list(Label).index(change.label))


def described(change: Change) -> str:
    """The path with the old and the new value."""
    return f"{change.path}  {_values(change)}"


def _values(change: Change) -> str:
    if _is_whole(change.old) or _is_whole(change.new):
        return "follows from the rest"
    old, new = _value(change.path, change.old), _value(change.path, change.new)
    return f"{old} -> {new}" if old != new else f"{change.old} -> {change.new}"


def _is_whole(value: Any) -> bool:
    """Whether this is a part that came whole, too long to show."""
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _value(path: str, value: Any) -> str:
    if value is None:
        return "none"
    if "_bytes" in path:
        return format_bytes(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_value('', item) for item in value)}]"
    return value[:12] if path.endswith(("fingerprint", "tokenizer")) else str(value)


def _effects(changes: Sequence[Change], peak_differences: Mapping[str, int]) -> dict[str, str]:
    """What each change does, after its values: a decision's peak stands at its first change."""
    effects: dict[str, str] = {}
    members = Counter(change.decision for change in changes if not is_result(change.path))
    told: set[str] = set()
    for change in (change for change in changes if not is_result(change.path)):
        decision, together = change.decision, members[change.decision] > 1
        objective = "another objective" if change.objective else "same objective"
        difference = peak_differences.get(decision)
        if decision in told:
            effects[change.path] = f": with {decision}, {objective}"
        elif difference is None:
            effects[change.path] = f": {objective}"
        else:
            peak = f"{decision} {_moved(difference)}" if together else _moved(difference)
            effects[change.path] = f": {peak}, {objective}"
        told.add(decision)
    return effects


def _moved(num_bytes: int) -> str:
    if num_bytes == 0:
        return "same peak"
    return f"peak {'+' if num_bytes > 0 else '-'}{format_bytes(abs(num_bytes))}"


def _peak(old: RunPlan, new: RunPlan) -> str:
    """44.4 -> 36.3 of 79.1 GiB in student, fits as before; in the unit of the larger peak."""
    before, after = old.ledger, new.ledger
    unit = unit_of(old if before.peak_bytes > after.peak_bytes else new)
    peak = _to(unit.format(before.peak_bytes), unit.format(after.peak_bytes))
    budget = _to(unit.format(before.budget_bytes), unit.format(after.budget_bytes))
    phase = _to(before.peak_phase, after.peak_phase)
    verdict = _to(before.verdict, after.verdict)
    as_before = " as before" if before.verdict == after.verdict else ""
    return f"{peak} of {budget} {unit.name} in {phase}, {verdict}{as_before}"


def _run(old: RunPlan, new: RunPlan) -> str:
    if old.fingerprint == new.fingerprint:
        return "the same: only what is said of it differs"
    return "another: neither resumes the other"


def _objective(changes: Sequence[Change]) -> str:
    paths = [change.path for change in changes if change.objective]
    if not paths:
        return "the same"
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return f"another, by {', '.join(paths[:_MOST_NAMED])}{more}"


def _to(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"
