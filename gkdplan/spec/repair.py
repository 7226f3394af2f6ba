"""What to write in place of a value that its key does not take, computed from both."""

import difflib
import re
from typing import Any

from gkdplan.addresses import HOST, host_in
from gkdplan.spec.toml_words import format_value
from gkdplan.spec.vocabulary import Node

_DECIMAL_UNIT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])i?B?", re.IGNORECASE)
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def repair(node: Node, value: Any) -> str | None:
    """The nearest value that the schema takes, as TOML; None where there is no telling."""
    match node:
        case {"anyOf": options}:
            return next(filter(None, (repair(option, value) for option in options)), None)
        case {"enum": choices}:
            return _choice(choices, value)
        case {"const": choice}:
            return format_value(choice)
        case {"type": "boolean"}:
            word = str(value).lower()
            return "true" if word in _YES else "false" if word in _NO else None
        case {"type": "integer" | "number" as kind}:
            return _number(node, kind, value)
        case {"type": "array", "items": item} if not isinstance(value, (list, dict)):
            entry = repair(item, value)
            return f"[{entry}]" if entry else None
        case {"type": "string", "pattern": pattern} if "GiB" in pattern:
            size = _DECIMAL_UNIT.fullmatch(str(value))
            return f'"{size[1]} {size[2].upper()}iB"' if size else None
        case {"type": "string", "pattern": pattern} if pattern == HOST:
            host = host_in(str(value))
            return format_value(host) if host else None
        case {"type": "string"} if type(value) in (str, int, float):
            return _text(node.get("pattern", "(?s).+"), str(value))
        case _:
            return None


def _text(pattern: str, text: str) -> str | None:
    """The text, or else what is left of it in a name, where the key takes that."""
    for candidate in (text, re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")):
        if re.fullmatch(pattern.removeprefix("^").removesuffix("$"), candidate):
            return format_value(candidate)
    return None


def _choice(choices: list[Any], value: Any) -> str | None:
    by_word = {str(choice): choice for choice in choices}
    near = difflib.get_close_matches(str(value).lower(), by_word, n=1, cutoff=0.5)
    return format_value(by_word[near[0]]) if near else None


def _number(node: Node, kind: str, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value) if kind == "number" else _whole(value)
    except (ValueError, OverflowError):
        return None
    lowest, highest = node.get("minimum", float("-inf")), node.get("maximum", float("inf"))
    if number >= node.get("exclusiveMaximum", float("inf")):
        return None
    if kind == "number" and highest == 1 and 5 <= number <= 100:
        return format_value(number / 100)
    is_inside = lowest <= number <= highest and number > node.get("exclusiveMinimum", float("-inf"))
    if is_inside and abs(number) < float("inf"):
        return format_value(number)
    return format_value(type(number)(lowest)) if number < lowest else None


def _whole(value: float | str) -> int:
    """Raises ValueError where a fraction would be lost."""
    if isinstance(value, str):
        return int(value)
    if value != int(value):
        raise ValueError(value)
    return int(value)
