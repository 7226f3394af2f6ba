"""CSV: a line of names, then one row each; an empty cell is no value."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass

from gkdplan.json_file import UnreadableError, opened, parse
from gkdplan.rowfiles import row_file
from gkdplan.rowfiles.row_file import Identity, Located, fingerprint_of

IN_JSON = ("messages", "images")
"""Columns whose cells hold JSON."""


@dataclass(frozen=True, slots=True)
class Table:
    """A .csv file, in UTF-8, with commas between cells (RFC 4180)."""

    path: str

    @property
    def num_bytes(self) -> int:
        return os.path.getsize(self.path)

    def identity(self) -> Identity:
        return Identity(fingerprint_of(self.path), sum(1 for _ in self._cells()))

    def rows(self) -> Iterator[Located]:
        for number, names, cells in self._cells():
            yield f"{self.path}:{number}", _row(names, cells)

    def _cells(self) -> Iterator[tuple[int, list[str], list[str]]]:
        """(line on which it begins, names of the columns, cells) of each row."""
        csv.field_size_limit(row_file.MAX_ROW_BYTES)
        with opened(self.path), open(self.path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            try:
                names = next(lines, [])
                if not names or len(set(names)) != len(names):
                    raise UnreadableError("has no first line that names its columns, each once")
                before = lines.line_num
                for cells in lines:
                    if cells:
                        yield before + 1, names, cells
                    before = lines.line_num
            except UnicodeDecodeError as failure:
                raise UnreadableError("is not UTF-8 text") from failure
            except csv.Error as failure:
                raise UnreadableError(
                    f"is not CSV in line {lines.line_num}: {failure}"
                ) from failure


def _row(names: list[str], cells: list[str]) -> object:
    if len(cells) != len(names):
        return UnreadableError(f"has {len(cells)} cells under {len(names)} columns")
    row: dict[str, object] = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
    for name in IN_JSON:
        if name in row:
            try:
                row[name] = parse(str(row[name]).encode())
            except UnreadableError:
                return UnreadableError(f"has a cell of `{name}` that is not JSON")
    return row
