"""What `gkdplan doctor` shows: names on the left, what was found, what is to be said of it."""

from collections.abc import Sequence

from gkdplan.report.wrapping import wrap

Row = tuple[str, str, str]


def machine_report(rows: Sequence[Row], width: int = 80) -> str:
    """A line a row: name, finding and remark, in columns; long remarks go on below."""
    names = max(len(name) for name, _, _ in rows) + 2
    found = max(len(what) for _, what, _ in rows) + 2
    lines = []
    for name, what, remark in rows:
        before = f"{name:<{names}}{what:<{found}}"
        indent = " " * (names + found)
        text = wrap(indent, remark, width)[len(indent) :] if remark else ""
        lines.append(f"{before}{text}".rstrip())
    return "\n".join(lines)
