"""Valid TOML text -> the place of every key and every array element.

The scanner runs only over text that `tomllib` has accepted, so it looks for the shape of the text
and never for mistakes.
"""

import re
import tomllib
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""The way to a value: ("student", "parallel", "tensor"), ("data", "train", 0)."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]*[^,\]}#\r\n \t]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is written, as half-open character ranges of the text.

    `key` is its name; for an array element it is the element. `value` is the text that was parsed
    into it; for a table with a header of its own it is that header, brackets included, and for a
    table that exists through a longer key only, the name.
    """

    key: tuple[int, int]
    value: tuple[int, int]


def find_places(text: str) -> dict[Path, Place]:
    """The place of every key and element of valid TOML; lines end in a bare newline."""
    return _Scanner(text).scan()


class _Scanner:
    """One pass over valid TOML, noting places on the way."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.places: dict[Path, Place] = {}
        self.num_tables: dict[Path, int] = {}

    def scan(self) -> dict[Path, Place]:
        table: Path = ()
        self._skip_blank()
        while self.position < len(self.text):
            if self.text[self.position] == "[":
                table = self._header()
            else:
                self._key_value(table)
            self._skip_blank()
        return self.places

    def _header(self) -> Path:
        start = self.position
        is_array = self.text.startswith("[[", start)
        self.position += 2 if is_array else 1
        names = self._key()
        self.position += 2 if is_array else 1
        header = (start, self.position)
        path: Path = ()
        for name, extent in names[:-1]:
            path = self._newest((*path, name))
            self.places.setdefault(path, Place(extent, extent))
        name, extent = names[-1]
        path = (*path, name)
        if is_array:
            self.places.setdefault(path, Place(extent, header))
            self.num_tables[path] = self.num_tables.get(path, 0) + 1
            path = self._newest(path)
        self.places[path] = Place(extent, header)
        return path

    def _newest(self, path: Path) -> Path:
        """A table, or the last table of an array of tables."""
        return (*path, self.num_tables[path] - 1) if path in self.num_tables else path

    def _key_value(self, path: Path) -> None:
        """One `a.b = value` inside the table `path`."""
        names = self._key()
        for name, extent in names[:-1]:
            path = (*path, name)
            self.places.setdefault(path, Place(extent, extent))
        name, extent = names[-1]
        path = (*path, name)
        self._step_over()
        self.places[path] = Place(extent, self._value(path))

    def _key(self) -> list[tuple[str, tuple[int, int]]]:
        """The parts of a dotted key, each with its extent."""
        names = []
        while True:
            self._skip_blank()
            start = self.position
            quoted = self._take(_STRING)
            name = tomllib.loads(f"key = {quoted}")["key"] if quoted else self._take(_BARE_KEY)
            names.append((name, (start, self.position)))
            self._skip_blank()
            if not self.text.startswith(".", self.position):
                return names
            self.position += 1

    def _value(self, path: Path) -> tuple[int, int]:
        start = self.position
        match self.text[start]:
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                self._take(_STRING) or self._take(_SCALAR)
        assert self.position > start, "tomllib has accepted what the scanner does not know"
        return start, self.position

    def _array(self, path: Path) -> None:
        index = 0
        self._step_over()
        while self.text[self.position] != "]":
            extent = self._value((*path, index))
            self.places[(*path, index)] = Place(extent, extent)
            index += 1
            self._skip_comma()
        self.position += 1

    def _inline_table(self, path: Path) -> None:
        self._step_over()
        while self.text[self.position] != "}":
            self._key_value(path)
            self._skip_comma()
        self.position += 1

    def _step_over(self) -> None:
        self.position += 1
        self._skip_blank()

    def _skip_comma(self) -> None:
        self._skip_blank()
        if self.text[self.position] == ",":
            self._step_over()

    def _skip_blank(self) -> None:
        self._take(_BLANK)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            return ""
        self.position = match.end()
        return match[0]
