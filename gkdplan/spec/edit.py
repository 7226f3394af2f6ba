"""A plan's text with some of its keys set otherwise; comments, order and spacing stay."""

import tomllib
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import tomlkit
from tomlkit.items import InlineTable, Table

Values = Mapping[str, str | int | bool | tuple[str | int, ...] | None]
Tree = MutableMapping[str, Any]


def edited(text: str, values: Values) -> str:
    """Set each dotted key of tables, or remove it where its value is None; `text` is a valid plan.

    A table that does not exist gets a header of its own, or, where the text has dotted keys in
    place of headers, is written in its line.
    """
    meant = tomllib.loads(text)
    _change(meant, values, dict)
    for write in (_with_headers, _within_lines):
        result = write(text, values)
        if _means(result, meant):
            return result
    raise AssertionError("the edited text means something else")


def _with_headers(text: str, values: Values) -> str:
    """New tables have headers, and an empty line after them."""
    added: list[Table] = []

    def new_table() -> Table:
        added.append(tomlkit.table())
        return added[-1]

    document = tomlkit.parse(text)
    _change(document, values, new_table)
    for table in added:
        table.add(tomlkit.nl())
    return tomlkit.dumps(document).rstrip("\n") + "\n"


def _within_lines(text: str, values: Values) -> str:
    document = tomlkit.parse(text)
    _change(document, values, tomlkit.inline_table)
    return tomlkit.dumps(document)


def _change(tree: Tree, values: Values, new_table: Callable[[], Any]) -> None:
    for path, value in values.items():
        *names, key = path.split(".")
        if value is None:
            _remove(tree, names, key)
        else:
            plain = list(value) if isinstance(value, tuple) else value
            _table(tree, names, new_table)[key] = plain


def _table(tree: Tree, names: list[str], new_table: Callable[[], Any]) -> Tree:
    for name in names:
        if name not in tree:
            inline = isinstance(tree, InlineTable)
            tree[name] = tomlkit.inline_table() if inline else new_table()
        tree = tree[name]
    return tree


def _remove(tree: Tree, names: list[str], key: str) -> None:
    for name in names:
        if name not in tree:
            return
        tree = tree[name]
    tree.pop(key, None)


def _means(text: str, meant: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == meant
    except tomllib.TOMLDecodeError:
        return False
