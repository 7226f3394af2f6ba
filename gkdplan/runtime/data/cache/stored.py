"""The examples of a split as columns in a folder."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

from gkdplan.pictures import Picture
from gkdplan.runtime.data.cache.columns import BYTES, TOKENS, Column, ColumnWriter
from gkdplan.runtime.data.cache.copies import PLACE, copy_of
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.vision.images import Shown

PROMPTS, RESPONSES, REST = "prompts", "responses", "rest"


class StoredExamples(Sequence[Example]):
    """The examples in a folder, each made anew whenever it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._prompts = Column(folder, PROMPTS, TOKENS)
        self._responses = Column(folder, RESPONSES, TOKENS)
        self._rest = Column(folder, REST, BYTES)
        self._copies = folder.parent / PLACE

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...

    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        places = range(len(self))[place]
        if isinstance(places, range):
            return [self._example(index) for index in places]
        return self._example(places)

    def _example(self, index: int) -> Example:
        rest = json.loads(self._rest[index].tobytes())
        is_answered = rest.pop("is_answered")
        return Example(
            prompt=tuple(self._prompts[index].tolist()),
            response=tuple(self._responses[index].tolist()) if is_answered else None,
            shown=tuple(self._shown(rest["location"], *one) for one in rest.pop("shown")),
            **rest,
        )

    def _shown(
        self,
        location: str,
        path: str | None,
        base64: str | None,
        address: str | None,
        sha256: str | None,
        key: str,
        grid: Sequence[int],
    ) -> Shown:
        rows, columns = grid
        picture = Picture(path, base64, address)
        if sha256 is not None:
            picture = copy_of(picture, self._copies, sha256)
        return Shown(picture, location, key, (rows, columns))


def store(folder: Path, examples: Iterable[Example]) -> StoredExamples:
    """Put the examples into the folder one after the other, and open them there."""
    prompts = ColumnWriter(folder, PROMPTS, TOKENS)
    responses = ColumnWriter(folder, RESPONSES, TOKENS)
    rest = ColumnWriter(folder, REST, BYTES)
    for example in examples:
        prompts.append(example.prompt)
        responses.append(example.response or ())
        rest.append(json.dumps(_rest(example)).encode())
    for column in (prompts, responses, rest):
        column.close()
    return StoredExamples(folder)


def _rest(example: Example) -> dict[str, Any]:
    """All but the tokens, as JSON values."""
    return {
        "row": example.row,
        "location": example.location,
        "question": example.question,
        "teacher": example.teacher,
        "is_answered": example.response is not None,
        "shown": [(*_source(s.picture), s.key, s.grid) for s in example.shown],
    }


def _source(picture: Picture) -> tuple[str | None, ...]:
    """Its path, base64, address and sha256; a copy lies where the examples do."""
    path = picture.path if picture.address is None else None
    return path, picture.base64, picture.address, picture.sha256
