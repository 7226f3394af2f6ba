"""A plan's text, its values and their places: `tomllib` decides what is valid and what it means."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gkdplan.diagnostics import Span
from gkdplan.spec.places import Path, Place, find_places
from gkdplan.spec.toml_words import format_path


@dataclass(frozen=True, slots=True)
class Source:
    """A plan's text with its values and the place of each of them."""

    file: str
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[Path, Place] = field(default_factory=dict)

    @classmethod
    def parse(cls, file: str, text: str) -> "Source":
        """Read TOML; raises tomllib.TOMLDecodeError, and RecursionError for absurd nesting."""
        text = text.replace("\r\n", "\n")
        return cls(file, text, tomllib.loads(text), find_places(text))

    def at(self, path: Path) -> Any:
        """What stands at a path, or None: TOML has no null of its own."""
        node: Any = self.values
        for part in path:
            try:
                node = node[part]
            except (LookupError, TypeError):
                return None
        return node

    def value(self, path: str) -> Any:
        """What stands under a dotted path of tables, or None."""
        return self.at(tuple(path.split(".")))

    def has(self, path: str) -> bool:
        """Whether a dotted path of tables is written."""
        return self.value(path) is not None

    def locate(self, path: str) -> Span:
        """The value at `path`, else its nearest existing ancestor, else the file's beginning."""
        names = {format_path(place): place for place in self.places}
        return self.locate_value(names.get(_nearest(path, names), ()))

    def locate_value(self, path: Path) -> Span:
        """As `locate`; the first line of a value of several."""
        place = self._place(path)
        return self._span(place.value) if place else self._nowhere()

    def locate_key(self, path: Path) -> Span:
        """The name under which the value, or its nearest existing ancestor, is written."""
        place = self._place(path)
        return self._span(place.key) if place else self._nowhere()

    def _place(self, path: Path) -> Place | None:
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path)

    def _nowhere(self) -> Span:
        """The beginning of the file, for what no line of it is about."""
        return Span(self.file, 1, 1, 0)

    def _span(self, extent: tuple[int, int]) -> Span:
        start, end = extent
        line_start = self.text.rfind("\n", 0, start) + 1
        line_end = self.text.find("\n", start)
        end = min(end, line_end) if line_end >= 0 else end
        line = self.text.count("\n", 0, start) + 1
        return Span(self.file, line, start - line_start + 1, max(end - start, 1))


def _nearest(path: str, names: Mapping[str, Path]) -> str:
    ancestors = (
        name for name in names if path == name or path.startswith((name + ".", name + "["))
    )
    return max(ancestors, key=len, default="")
