"""Frozen dataclasses <-> JSON values, read off the type hints: a new field needs no code here.

A field's metadata may rename it ({"json": "from"}). A member of a union of dataclasses carries its
"kind", the snake case of its name. Reading builds nothing but the dataclasses named by the hints,
coerces nothing and accepts exactly what writing gives.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

_JSON_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    float: "a number with a point",
    bool: "a boolean",
    NoneType: "null",
}


@dataclass
class MisfitError(Exception):
    """A JSON value that does not belong at `path` ("layout.classes[0].stage")."""

    path: str
    reason: str


def to_json(hint: Any, value: Any) -> Any:
    """`value`, of the type that `hint` says, as JSON values."""
    if isinstance(hint, UnionType):
        return _union_to_json(hint, value)
    if isinstance(hint, type) and is_dataclass(hint):
        members = _fields_of(hint)
        return {name: to_json(inner, getattr(value, attr)) for attr, name, inner in members}
    if get_origin(hint) is tuple:
        hints = _item_hints(hint, len(value))
        return [to_json(h, item) for h, item in zip(hints, value, strict=True)]
    if get_origin(hint) is Mapping:
        _, item_hint = get_args(hint)
        return {str(key): to_json(item_hint, item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    return float(value) if hint is float else value


def from_json(hint: Any, raw: Any, path: str = "") -> Any:
    """The value of the type that `hint` says; MisfitError names the first part that is not one."""
    if isinstance(hint, UnionType):
        return _union_from_json(hint, raw, path)
    if is_dataclass(hint):
        return _dataclass_from_json(hint, raw, path)
    if get_origin(hint) is tuple:
        return _tuple_from_json(hint, raw, path)
    if get_origin(hint) is Mapping:
        return _mapping_from_json(hint, raw, path)
    if issubclass(hint, Enum):
        return _enum_from_json(hint, raw, path)
    return _expect(hint, raw, path)


def kind_of(cls: type) -> str:
    """The tag of a step: "teacher_forward" of TeacherForward."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def _union_to_json(hint: UnionType, value: Any) -> Any:
    if value is None:
        return None
    if NoneType in get_args(hint):
        return to_json(_without_none(hint), value)
    return {"kind": kind_of(type(value)), **to_json(type(value), value)}


def _union_from_json(hint: UnionType, raw: Any, path: str) -> Any:
    if NoneType in get_args(hint):
        return None if raw is None else from_json(_without_none(hint), raw, path)
    kinds = {kind_of(member): member for member in get_args(hint)}
    kind = _expect(dict, raw, path).get("kind")
    if kind not in kinds:
        raise MisfitError(_join(path, "kind"), f"should be one of {', '.join(kinds)}")
    content = {name: item for name, item in raw.items() if name != "kind"}
    return from_json(kinds[kind], content, path)


def _dataclass_from_json(cls: Any, raw: Any, path: str) -> Any:
    record = dict(_expect(dict, raw, path))
    values = {}
    for attr, name, hint in _fields_of(cls):
        if name not in record:
            raise MisfitError(_join(path, name), "is missing")
        values[attr] = from_json(hint, record.pop(name), _join(path, name))
    for name in record:
        raise MisfitError(_join(path, name), "is not a known key")
    return cls(**values)


def _tuple_from_json(hint: Any, raw: Any, path: str) -> tuple[Any, ...]:
    items = _expect(list, raw, path)
    hints = _item_hints(hint, len(items))
    if len(hints) != len(items):
        raise MisfitError(path, f"should have {len(hints)} items, not {len(items)}")
    return tuple(
        from_json(h, item, f"{path}[{i}]")
        for i, (h, item) in enumerate(zip(hints, items, strict=True))
    )


def _mapping_from_json(hint: Any, raw: Any, path: str) -> dict[Any, Any]:
    key_hint, item_hint = get_args(hint)
    return {
        from_json(key_hint, key, _join(path, key)): from_json(item_hint, item, _join(path, key))
        for key, item in _expect(dict, raw, path).items()
    }


def _enum_from_json(cls: type[Enum], raw: Any, path: str) -> Enum:
    for member in cls:
        if member.value == raw:
            return member
    raise MisfitError(path, f"should be one of {', '.join(str(member.value) for member in cls)}")


def _expect(cls: type, raw: Any, path: str) -> Any:
    if type(raw) is not cls:
        raise MisfitError(path, f"should be {_JSON_NAMES[cls]}, not {_JSON_NAMES[type(raw)]}")
    return raw


def _item_hints(hint: Any, length: int) -> list[Any]:
    """The hint of each item: tuple[X, ...] repeats its only one, tuple[X, Y] names all."""
    hints = get_args(hint)
    return [hints[0]] * length if hints[-1] is Ellipsis else list(hints)


def _without_none(hint: UnionType) -> Any:
    return reduce(or_, (member for member in get_args(hint) if member is not NoneType))


@cache
def _fields_of(cls: type[Any]) -> tuple[tuple[str, str, Any], ...]:
    """(attribute, JSON name, type hint) of each field."""
    hints = get_type_hints(cls)
    return tuple((f.name, f.metadata.get("json", f.name), hints[f.name]) for f in fields(cls))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
