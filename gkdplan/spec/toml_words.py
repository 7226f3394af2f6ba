"""Paths and values as people write them in TOML."""

import json
import re
from typing import Any

from gkdplan.spec.places import Path

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def format_path(path: Path) -> str:
    """The path as people write it: student.parallel.tensor, data.train[0], "odd key".x."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else format_value(part)
            text += f".{name}" if text else name
    return text


def format_value(value: Any) -> str:
    """A string, number, flag or array as people write it in TOML: 1e-5, not 1e-05."""
    if isinstance(value, list):
        return "[" + ", ".join(map(format_value, value)) + "]"
    if isinstance(value, float):
        return re.sub(r"e([+-])0", r"e\1", repr(value))
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in quoted)
