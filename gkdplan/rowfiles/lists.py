"""JSON: one list of rows, read an item at a time."""

import json
import os
from codecs import getincrementaldecoder
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from gkdplan.json_file import UnreadableError, opened, refuse_constant, refused_text
from gkdplan.rowfiles import row_file
from gkdplan.rowfiles.row_file import Identity, Located, fingerprint_of, refuse_long_row

_DECODER = json.JSONDecoder(parse_constant=refuse_constant)
_BLANK = " \t\n\r"


@dataclass(frozen=True, slots=True)
class OneList:
    """A .json file."""

    path: str

    @property
    def num_bytes(self) -> int:
        return os.path.getsize(self.path)

    def identity(self) -> Identity:
        return Identity(fingerprint_of(self.path), sum(1 for _ in self.rows()))

    def rows(self) -> Iterator[Located]:
        with opened(self.path) as file:
            for number, item in enumerate(_items(_Text(file, self.path)), start=1):
                yield f"{self.path}, row {number}", item


def _items(text: "_Text") -> Iterator[object]:
    if text.next_character() != "[":
        raise UnreadableError("does not hold one list of rows")
    text.skip(1)
    if text.next_character() == "]":
        text.skip(1)
    else:
        while True:
            yield text.value()
            mark = text.next_character()
            if mark not in (",", "]"):
                raise text.refusal("expecting ',' delimiter")
            text.skip(1)
            if mark == "]":
                break
    if text.next_character():
        raise text.refusal("extra data")


@dataclass(slots=True)
class _Text:
    """The characters of a file from the one that is next; earlier ones are forgotten.

    `num_lines` end, and `num_columns` characters of a line stand, before what is still here.
    """

    file: BinaryIO
    path: str
    here: str = ""
    at: int = 0
    is_whole: bool = False
    num_lines: int = 0
    num_columns: int = 0
    decoder: object = field(default_factory=getincrementaldecoder("utf-8-sig"))

    def next_character(self) -> str:
        """The next one that is not blank; none at the end."""
        while True:
            while self.at < len(self.here):
                if self.here[self.at] not in _BLANK:
                    return self.here[self.at]
                self.at += 1
            if not self._read():
                return ""

    def skip(self, count: int) -> None:
        self.at += count

    def value(self) -> object:
        """The value that is next, once so much is read that it surely ends."""
        self.next_character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.here, self.at)
            except json.JSONDecodeError as failure:
                if not self._read():
                    raise self.refusal(failure.msg, failure.pos) from failure
            except (RecursionError, ValueError) as failure:
                raise refused_text(failure) from failure
            else:
                if end < len(self.here) or not self._read():
                    self.at = end
                    return value

    def refusal(self, reason: str, place: int | None = None) -> UnreadableError:
        before = self.here[: self.at if place is None else place]
        num_lines, line = before.count("\n"), before.rpartition("\n")[2]
        column = len(line) + 1 + (0 if num_lines else self.num_columns)
        what = reason[:1].lower() + reason[1:]
        return UnreadableError(
            f"is not JSON at line {self.num_lines + num_lines + 1}, column {column}: {what}"
        )

    def _read(self) -> bool:
        """As much again as is kept, so that a long row is not parsed often; whether there was
        more."""
        if self.is_whole:
            return False
        self._forget()
        if len(self.here) > row_file.MAX_ROW_BYTES:
            raise refuse_long_row(self.path, f"in the row that begins on line {self.num_lines + 1}")
        chunk = self.file.read(max(row_file.CHUNK_BYTES, len(self.here)))
        self.is_whole = not chunk
        try:
            self.here += self.decoder.decode(chunk, final=self.is_whole)  # type: ignore[attr-defined]
        except UnicodeDecodeError as failure:
            raise refused_text(failure) from failure
        return True

    def _forget(self) -> None:
        gone, self.here, self.at = self.here[: self.at], self.here[self.at :], 0
        num_lines, line = gone.count("\n"), gone.rpartition("\n")[2]
        self.num_columns = len(line) + (0 if num_lines else self.num_columns)
        self.num_lines += num_lines
