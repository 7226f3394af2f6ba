"""The rows of a data file: what each line says, and where it stands."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from gkdplan.contents import Part, contents_of, pictures_of, text_of
from gkdplan.diagnostics import UserError, error
from gkdplan.json_file import UnreadableError
from gkdplan.pictures import Picture
from gkdplan.rowfiles import MissingPackageError, RowFile, open_rows
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


Item = tuple[str, object]
"""Where a row stands, and what the file holds there."""


def read_items(source: DataSource, key: str) -> Iterator[Item]:
    """What the plan takes of one file, in the file's order, a piece at a time.

    `key` is the key path of the plan that names the file ("data.train[0]").

    Raises UserError where the file is not the one that the plan was compiled from (GK470), cannot
    be read (GK471), or not without a package (GK469).
    """
    try:
        file = open_unchanged(source, key)
        yield from islice(file.rows(), source.limit)
    except MissingPackageError as package:
        raise _missing_package(source, package, key) from package
    except UnreadableError as failure:
        raise _unreadable(source, str(failure), key) from failure


def read_row(
    item: Item, key: str, teacher_column: str | None = None, teachers: Sequence[str] = ()
) -> Row:
    """One row of the three forms. Where there are several `teachers`, its `teacher_column` holds
    one of them.

    Raises UserError where it is none (GK472), or names none of the teachers (GK484).
    """
    location, content = item
    row = _row(content, location, key)
    if teacher_column is None:
        return row
    assert isinstance(content, dict), "a row of one of the forms"
    teacher = content.get(teacher_column)
    if teacher not in teachers:
        raise _no_teacher(row, teacher_column, teacher, teachers, key)
    return replace(row, teacher=teacher)


def open_unchanged(source: DataSource, key: str) -> RowFile:
    """The file, where it is the one that the plan was compiled from.

    Raises UserError (GK470, GK471), and UnreadableError where it is there and not in its format.
    """
    file = open_rows(source.path)
    try:
        os.stat(source.path)
        digest = file.identity().fingerprint
    except OSError as failure:
        raise _unreadable(source, f"cannot be read: {_lower(failure)}", key) from failure
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
    return file


def _lower(failure: OSError) -> str:
    return (failure.strerror or type(failure).__name__).lower()


def _row(item: Any, location: str, key: str) -> Row:
    match item:
        case UnreadableError():
            raise _malformed(location, key, f"it {item}") from item
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


def _unreadable(source: DataSource, reason: str, key: str) -> UserError:
    return UserError(
        error(
            "GK471",
            f"the data file `{source.path}` {reason}",
            key,
            help=(f"put the file back, or name another in `{key}`",),
        )
    )


def _missing_package(source: DataSource, package: MissingPackageError, key: str) -> UserError:
    return UserError(
        error(
            "GK469",
            f"`{source.path}` is read by {package}, which is not installed",
            key,
            help=("type `pip install 'gkdplan[data]'` on every machine of the run",),
        )
    )


def _malformed(location: str, key: str, reason: str) -> UserError:
    return UserError(
        error("GK472", f"the row at `{location}` cannot be used: {reason}", key, help=(FORMS,))
    )
