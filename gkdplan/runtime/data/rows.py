"""The rows of a data file: what each line says, and where it stands."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from gkdplan.diagnostics import UserError, error
from gkdplan.pictures import Part, Picture, contents_of, pictures_of, text_of
from gkdplan.rowfiles import BadRow, TableError, fingerprint_of, is_table, open_table
from gkdplan.runplan.model import DataSource
from gkdplan.turns import ASSISTANT, fault_of, is_text

Turn = dict[str, Any]
"""Its `role`, and its `content`: text, or where it shows images, parts as chat templates take
them."""
FORMS = 'a row is {"messages": [...]}, {"prompt", "completion"} or {"prompt"}'


@dataclass(frozen=True, slots=True)
class TurnsRow:
    """A conversation: the turns before the answer, and the answer (None where none is given).

    `pictures` are what the turns show, in order. `teacher` is the value that names the row's
    teacher, None where there is one for all rows.
    """

    location: str
    turns: tuple[Turn, ...]
    answer: Turn | None
    pictures: tuple[Picture, ...] = ()
    teacher: str | None = None

    @property
    def question(self) -> str:
        """The words of the turn before the answer."""
        content = self.turns[-1]["content"]
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content)


@dataclass(frozen=True, slots=True)
class TextRow:
    """Plain text: a prompt, and what follows it (None where nothing is given).

    `teacher` is as of a conversation.
    """

    location: str
    prompt: str
    completion: str | None
    teacher: str | None = None


Row = TurnsRow | TextRow


def read_rows(
    source: DataSource, key: str, teacher_column: str | None = None, teachers: Sequence[str] = ()
) -> list[Row]:
    """The rows that the plan takes of one file, in the file's order.

    A `.json` file holds one list of rows, a table one row a line of it, any other file one row a
    line; blank lines do not count.
    `key` is the key path of the plan that names the file ("data.train[0]"). Where there are several
    `teachers`, the `teacher_column` of a row holds one of them.

    Raises UserError where the file is not the one that the plan was compiled from (GK470, GK471),
    a row is not one of the three forms (GK472), or it names none of the teachers (GK484).
    """
    items = list(islice(_items(source, key), source.limit))
    rows = [_row(item, location, key) for location, item in items]
    if teacher_column is None:
        return rows
    named = [(row, item.get(teacher_column)) for row, (_, item) in zip(rows, items, strict=True)]
    for row, teacher in named:
        if teacher not in teachers:
            raise _no_teacher(row, teacher_column, teacher, teachers, key)
    return [replace(row, teacher=teacher) for row, teacher in named]


def _items(source: DataSource, key: str) -> Iterator[tuple[str, Any]]:
    """(where it stands, what it holds) of each row."""
    path = source.path
    try:
        _require_unchanged(source, key)
        if is_table(path):
            yield from _cells(path, key)
        elif path.lower().endswith(".json"):
            yield from _listed(path, key)
        else:
            with open(path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        location = f"{path}:{number}"
                        yield location, _parse(line, location, key)
    except (OSError, TableError) as failure:
        raise _unreadable(path, key, failure) from failure


def _listed(path: str, key: str) -> Iterator[tuple[str, Any]]:
    items = _parse(Path(path).read_bytes(), path, key)
    if not isinstance(items, list):
        raise _malformed(path, key, "the file does not hold one list")
    for number, item in enumerate(items, start=1):
        yield f"{path}, row {number}", item


def _cells(path: str, key: str) -> Iterator[tuple[str, Any]]:
    for location, item in open_table(path).rows:
        if isinstance(item, BadRow):
            raise _malformed(location, key, f"it {item.reason}")
        yield location, item


def _require_unchanged(source: DataSource, key: str) -> None:
    digest = fingerprint_of(source.path)
    if digest != source.fingerprint:
        raise UserError(
            error(
                "GK470",
                f"the data file `{source.path}` changed after the plan was compiled",
                key,
                notes=(
                    f"its sha256 is {digest[:12]}, the run plan was compiled from "
                    f"{source.fingerprint[:12]}",
                ),
                help=("compile the plan again, or put the old file back",),
            )
        )


def _unreadable(path: str, key: str, failure: OSError | TableError) -> UserError:
    reason = f"cannot be read: {_lower(failure)}" if isinstance(failure, OSError) else str(failure)
    return UserError(
        error(
            "GK471",
            f"the data file `{path}` {reason}",
            key,
            help=(f"put the file back, or name another in `{key}`",),
        )
    )


def _lower(failure: OSError) -> str:
    return (failure.strerror or type(failure).__name__).lower()


def _parse(text: bytes, location: str, key: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as failure:
        raise _malformed(location, key, f"it is not JSON ({failure})") from failure


def _row(item: Any, location: str, key: str) -> Row:
    match item:
        case {"messages": _}:
            fault = fault_of(item)
            if fault is not None:
                raise _malformed(location, key, f"it {fault}")
            return _conversation(item, location)
        case {"prompt": prompt} if is_text(prompt):
            completion = item.get("completion")
            if completion is None or is_text(completion):
                return TextRow(location, prompt, completion)
            raise _malformed(location, key, "its `completion` is not text")
        case _:
            raise _malformed(location, key, "it has neither `messages` nor a `prompt` of text")


def _conversation(item: dict[str, Any], location: str) -> TurnsRow:
    contents = contents_of(item)
    turns = [
        {"role": turn["role"], "content": _content(parts)}
        for turn, parts in zip(item["messages"], contents, strict=True)
    ]
    answer = turns.pop() if turns[-1]["role"] == ASSISTANT else None
    return TurnsRow(location, tuple(turns), answer, pictures_of(contents))


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, str]]:
    if not pictures_of([parts]):
        return text_of(parts)
    return [
        {"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": part}
        for part in parts
        if part
    ]


def _no_teacher(
    row: Row, column: str, value: object, teachers: Sequence[str], key: str
) -> UserError:
    holds = "has no" if value is None else f"has {json.dumps(value, ensure_ascii=False)} as its"
    return UserError(
        error(
            "GK484",
            f"the row at `{row.location}` {holds} `{column}`, which names no teacher",
            key,
            label="every row has one of the teachers of `teacher.server.urls`",
            notes=(f"known values: {', '.join(teachers)}",),
            help=("give the row one of them, or add its value to `teacher.server.urls`",),
        )
    )


def _malformed(location: str, key: str, reason: str) -> UserError:
    return UserError(
        error("GK472", f"the row at `{location}` cannot be used: {reason}", key, help=(FORMS,))
    )
