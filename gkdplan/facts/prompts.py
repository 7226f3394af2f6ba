"""The longest prompts of a data file, for what can be said of their tokens without a tokenizer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappushpop

from gkdplan.contents import contents_of, text_of
from gkdplan.turns import ASSISTANT

NUM_KEPT = 3
MAX_TEXT = 2**18
"""Characters that are kept of a prompt."""


@dataclass(frozen=True, order=True, slots=True)
class Prompt:
    """A prompt of `num_characters`, at a place, with the texts that its tokens surely spell: its
    text, or the words of its turns but the assistant's, which a template may shorten."""

    num_characters: int
    place: str
    texts: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Of the texts that are kept."""
        return sum(len(text.encode(errors="replace")) for text in self.texts)


@dataclass(slots=True)
class LongestPrompts:
    """The `NUM_KEPT` longest of the rows that were shown to it."""

    _kept: list[Prompt] = field(default_factory=list)

    def see(self, place: str, row: Mapping[str, object]) -> None:
        """A row that can be used."""
        size = sum(map(len, _texts(row)))
        if len(self._kept) == NUM_KEPT and size <= self._kept[0].num_characters:
            return
        prompt = Prompt(size, place, tuple(text[:MAX_TEXT] for text in _texts(row)))
        if len(self._kept) < NUM_KEPT:
            self._kept.append(prompt)
            self._kept.sort()
        else:
            heappushpop(self._kept, prompt)

    def found(self) -> tuple[Prompt, ...]:
        """The longest first."""
        return tuple(sorted(self._kept, reverse=True))


def _texts(row: Mapping[str, object]) -> Iterator[str]:
    turns = row.get("messages")
    if not isinstance(turns, list):
        yield str(row["prompt"])
        return
    for turn, parts in zip(turns, contents_of(row), strict=True):
        if turn["role"] != ASSISTANT:
            yield text_of(parts).strip()
