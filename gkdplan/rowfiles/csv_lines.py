"""CSV: the first line names the columns; a cell of `messages` or `images` is JSON."""

import csv
import json
from collections.abc import Iterator

from gkdplan.rowfiles.table import BadRow, Table, TableError

MAX_CELL_BYTES = 64 * 2**20
_JSON_COLUMNS = ("messages", "images")


def read(path: str) -> Table:
    """Raises TableError for what has no header, while it is read."""
    return Table(_rows(path))


def _rows(path: str) -> Iterator[tuple[str, dict[str, object] | BadRow]]:
    csv.field_size_limit(MAX_CELL_BYTES)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            if len(set(header)) != len(header) or not header:
                raise TableError("has no first line that names its columns, each once")
            before = lines.line_num
            for cells in lines:
                if cells:
                    yield f"{path}:{before + 1}", _row(header, cells)
                before = lines.line_num
    except UnicodeDecodeError as failure:
        raise TableError("is not UTF-8 text") from failure
    except csv.Error as failure:
        raise TableError(f"is not CSV in line {lines.line_num}: {failure}") from failure
    except OSError as failure:
        reason = (failure.strerror or type(failure).__name__).lower()
        raise TableError(f"cannot be read: {reason}") from failure


def _row(header: list[str], cells: list[str]) -> dict[str, object] | BadRow:
    if len(cells) != len(header):
        return BadRow(f"has {len(cells)} cells under {len(header)} columns")
    row: dict[str, object] = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    for name in _JSON_COLUMNS:
        if name in row:
            try:
                row[name] = json.loads(str(row[name]))
            except (ValueError, RecursionError):
                return BadRow(f"has a cell of `{name}` that is not JSON")
    return row
