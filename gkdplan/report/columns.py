"""Cells in columns."""

from collections.abc import Sequence


def left_aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return [line.rstrip() for line in lines]


def figures_aligned(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Names to the left, figures to the right; names are cut where the line would be too wide."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns[1:]]
    room = width - sum(w + 2 for w in widths)
    name_width = min(room, max(map(len, columns[0])))
    return [
        row[0][:name_width].ljust(name_width)
        + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths, strict=True))
        for row in rows
    ]
