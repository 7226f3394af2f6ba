"""The plan's vocabulary as one JSON schema: for editors, for the reference and for error messages.

A node of the schema is a plain dict. References are resolved and the null of optional keys is
dropped, because TOML has no null: a key is optional by being left out.
"""

import ast
import inspect
import json
from functools import cache
from typing import Any

from gkdplan.spec import learning, models, plan
from gkdplan.spec.places import Path
from gkdplan.spec.toml_words import format_path
from gkdplan.spec.values import LARGEST_COUNT

Node = dict[str, Any]


TABLES = (plan, models, learning)
"""The modules whose classes are the tables of a plan."""


@cache
def plan_schema() -> Node:
    """The JSON schema of a plan, every key described by its docstring in its table."""
    raw = plan.Plan.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gkdplan plan",
        **_tidy(_described("Plan", raw), raw["$defs"]),
    }


def node_at(path: Path) -> Node | None:
    """The schema of the value at a path, or None where no plan has such a key."""
    node: Node | None = plan_schema()
    for part in path:
        if node is None:
            return None
        if isinstance(part, str):
            node = node.get("properties", {}).get(part, node.get("additionalProperties") or None)
        else:
            node = dict(enumerate(node.get("prefixItems", []))).get(part, node.get("items"))
    return node


def keys_of(path: Path) -> list[str]:
    """The keys of the table at a path."""
    node = node_at(path) or {}
    return list(node.get("properties", {}))


def every_key() -> dict[str, list[str]]:
    """Each key of the vocabulary with the dotted paths at which it may stand."""
    found: dict[str, list[str]] = {}
    for path in _paths((), plan_schema()):
        found.setdefault(str(path[-1]), []).append(format_path(path))
    return found


def describe(node: Node) -> str:
    """What a value must be, in words: "a whole number of at least 1"."""
    match node:
        case {"enum": choices}:
            return _either([json.dumps(choice) for choice in choices])
        case {"const": choice}:
            return json.dumps(choice)
        case {"anyOf": options}:
            return _either([describe(option) for option in options])
        case {"type": "boolean"}:
            return "true or false"
        case {"type": "integer"}:
            return "a whole number" + _range(node)
        case {"type": "number"}:
            return "a number" + _range(node)
        case {"type": "string", "examples": [example]}:
            return f'a string such as "{example}"'
        case {"type": "string"}:
            return "a non-empty string" if node.get("minLength") else "a string"
        case {"type": "array", "prefixItems": items}:
            return f"an array of {len(items)}, each {describe(items[0])}"
        case {"type": "array", "items": item}:
            kind = "a non-empty array" if node.get("minItems") else "an array"
            return f"{kind}, each entry {describe(item)}"
        case {"additionalProperties": {"type": _} as item}:
            kind = "a non-empty table" if node.get("minProperties") else "a table"
            return f"{kind}, each value {describe(item)}"
        case _:
            return "a table"


def _range(node: Node) -> str:
    """In words: " of at least 1", " from 0 to 1", " of at least 0 and below 1".

    The largest count is left out: it only keeps slips away.
    """
    bounds = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    lowest, above, highest, below = (
        None if node.get(bound, LARGEST_COUNT) == LARGEST_COUNT else f"{node[bound]:g}"
        for bound in bounds
    )
    if lowest and highest:
        return f" from {lowest} to {highest}"
    if lowest and below:
        return f" of at least {lowest} and below {below}"
    parts = []
    if lowest:
        parts.append(f" of at least {lowest}")
    if above:
        parts.append(f" above {above}")
    if highest:
        parts.append(f" at most {highest}")
    return ",".join(parts)


def _either(options: list[str]) -> str:
    return " or ".join([", ".join(options[:-1]), options[-1]] if options[1:] else options)


def _paths(path: Path, node: Node) -> list[Path]:
    found = []
    for key, inner in node.get("properties", {}).items():
        found += [(*path, key), *_paths((*path, key), inner)]
    return found


def _described(name: str, node: Node) -> Node:
    """The schema of a table with the docstrings of its keys."""
    described = {
        key: {**inner, **_description(name, key)} for key, inner in node["properties"].items()
    }
    return {**node, "properties": described}


def _description(table: str, key: str) -> dict[str, str]:
    text = _docstrings().get((table, key))
    return {"description": text} if text else {}


@cache
def _docstrings() -> dict[tuple[str, str], str]:
    """The strings below the attributes of each table, by class and key."""
    found = {}
    for table in [node for room in TABLES for node in ast.parse(inspect.getsource(room)).body]:
        if not isinstance(table, ast.ClassDef):
            continue
        for attribute, text in zip(table.body, table.body[1:], strict=False):
            match attribute, text:
                case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(ast.Constant(str(words))):
                    found[table.name, key.rstrip("_")] = words
    return found


def _tidy(node: Node, definitions: dict[str, Node]) -> Node:
    """The node without references, nulls and generated titles."""
    node = {key: value for key, value in node.items() if key not in ("title", "$defs")}
    if node.get("default", ...) is None:
        del node["default"]
    if "anyOf" in node:
        options = [option for option in node.pop("anyOf") if option != {"type": "null"}]
        node = {**options[0], **node} if len(options) == 1 else {**node, "anyOf": options}
    if "$ref" in node:
        name = node.pop("$ref").rpartition("/")[2]
        definition = definitions[name]
        if "properties" in definition:
            definition = _described(name, definition)
        node = {**_tidy(definition, definitions), **node}
    if "properties" in node:
        node["properties"] = {
            key: _tidy(inner, definitions) for key, inner in node["properties"].items()
        }
    for key in ("anyOf", "prefixItems"):
        if key in node:
            node[key] = [_tidy(inner, definitions) for inner in node[key]]
    if "items" in node:
        node["items"] = _tidy(node["items"], definitions)
    return node
