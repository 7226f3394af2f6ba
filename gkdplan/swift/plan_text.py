"""A translation -> the text of a plan, with the flag that each key was."""

import textwrap
from collections.abc import Iterator

import tomlkit
from tomlkit import TOMLDocument
from tomlkit.items import Table

from gkdplan.swift.said import Loss, Said
from gkdplan.swift.translation import Translation

WIDTH = 100
TABLES = (
    "", "cluster", "student", "student.lora", "student.parallel", "student.recompute", "teacher",
    "teacher.server", "distill", "generation", "data", "batch", "optimizer", "run",
)  # fmt: skip
"""In the order of a plan."""


def plan_text(translation: Translation, file: str) -> str:
    """TOML; every key has the flag that it was beside it, and flags that are none stand above."""
    document = tomlkit.document()
    for line in _heading(translation, file):
        document.add(tomlkit.comment(line) if line else tomlkit.nl())
    for table in TABLES:
        said = [each for each in translation.said if each.key.rpartition(".")[0] == table]
        if said:
            _fill(_table(document, table), said)
    return tomlkit.dumps(document).replace("\n\n\n", "\n\n")


def _heading(translation: Translation, file: str) -> Iterator[str]:
    yield f"From the ms-swift command of {file}."
    for title, flags in (
        ("These flags have no counterpart, and what they ask for is not done:", translation.lost),
        ("These flags need no key:", translation.idle),
    ):
        if flags:
            yield title
            yield from (line for loss in flags for line in _reason(loss))
    yield ""


def _reason(loss: Loss) -> list[str]:
    return textwrap.wrap(
        f"{loss.flag}: {loss.why}", WIDTH - 2, initial_indent="  ", subsequent_indent="    "
    )


def _table(document: TOMLDocument, name: str) -> TOMLDocument | Table:
    place: TOMLDocument | Table = document
    for part in name.split(".") if name else ():
        if part not in place:
            place.add(part, tomlkit.table(is_super_table=False))
        place = place[part]
    return place


def _fill(table: TOMLDocument | Table, said: list[Said]) -> None:
    for each in said:
        item = tomlkit.item(each.value)
        item.comment(each.remark)
        item.trivia.comment_ws = "  "
        table.add(each.key.rpartition(".")[2], item)
    if isinstance(table, Table):
        table.add(tomlkit.nl())
