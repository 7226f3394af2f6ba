"""JSON Lines: one row a line; blank lines do not count."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from gkdplan.json_file import UnreadableError, opened, parse
from gkdplan.rowfiles import row_file
from gkdplan.rowfiles.row_file import Identity, Located, refuse_long_row


@dataclass(frozen=True, slots=True)
class Lines:
    """A .jsonl file."""

    path: str

    @property
    def num_bytes(self) -> int:
        return os.path.getsize(self.path)

    def identity(self) -> Identity:
        digest, num_rows = sha256(), 0
        for _, line in self._lines():
            digest.update(line)
            num_rows += not line.isspace()
        return Identity(digest.hexdigest(), num_rows)

    def rows(self) -> Iterator[Located]:
        for number, line in self._lines():
            if not line.isspace():
                yield f"{self.path}:{number}", _row(line, number)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        limit = row_file.MAX_ROW_BYTES
        with opened(self.path) as file:
            for number, line in enumerate(iter(partial(file.readline, limit), b""), start=1):
                if len(line) == limit and not line.endswith(b"\n"):
                    raise refuse_long_row(self.path, f"on line {number}")
                yield number, line


def _row(line: bytes, number: int) -> object:
    try:
        return parse(line.rstrip(), first_line=number)
    except UnreadableError as failure:
        return failure
