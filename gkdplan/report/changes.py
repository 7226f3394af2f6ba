"""The differences between two run plans, a line each."""

from collections.abc import Sequence
from typing import Any

from gkdplan.report.words import plural
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.diff import Change, Label
from gkdplan.units import format_bytes

_MEANINGS = {
    Label.SAFE: "changes nothing that is learned",
    Label.RESHARD: "spreads the same state over the ranks anew",
    Label.RESTART: "is another run",
}


def change_list(changes: Sequence[Change], width: int = 80) -> str:
    """`restart  objective.beta  0.5 -> 0.0`, the gravest first, and what the labels mean."""
    if not changes:
        return "no differences"
    lines = [wrap(f"{c.label:<9}", described(c), width) for c in gravest_first(changes)]
    present = [label for label in Label if any(c.label is label for c in changes)]
    legend = "; ".join(f"{label} {_MEANINGS[label]}" for label in reversed(present))
    return "\n".join([*lines, wrap("", f"{plural(len(changes), 'difference')}: {legend}", width)])


def gravest_first(changes: Sequence[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: -list(Label).index(change.label))


def described(change: Change) -> str:
    """The path with the old and the new value."""
    return f"{change.path}  {_values(change)}"


def _values(change: Change) -> str:
    if _is_whole(change.old) or _is_whole(change.new):
        return "follows from the rest"
    return f"{_value(change.path, change.old)} -> {_value(change.path, change.new)}"


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
