"""JSON files read within bounds: whatever they hold, the outcome is a value or a reason."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NoReturn

from gkdplan.units import format_bytes


class UnreadableError(Exception):
    """Why a file gives no value: the text completes a sentence that starts with the file's name."""


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file, open for reading. Raises UnreadableError for every failure to read it."""
    try:
        if not os.path.isfile(path):
            raise UnreadableError("is not a file" if os.path.lexists(path) else "is not there")
        with open(path, "rb") as file:
            yield file
    except OSError as failure:
        raise UnreadableError(f"cannot be read: {reason(failure)}") from failure


def read_bytes(path: str, max_bytes: int) -> bytes:
    """The whole file. Raises UnreadableError where it cannot be read or exceeds `max_bytes`."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            limit = format_bytes(max_bytes)
            raise UnreadableError(f"has {format_bytes(size)}, and at most {limit} are read")
        return file.read()


def parse(text: bytes, first_line: int = 1) -> object:
    """The value of a JSON text, which starts on line `first_line` of its file.

    Raises UnreadableError where the text is none that JSON allows.
    """
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as failure:
        place = f"line {first_line + failure.lineno - 1}, column {failure.colno}"
        raise UnreadableError(f"is not JSON at {place}: {_lower_first(failure.msg)}") from failure
    except (RecursionError, ValueError) as failure:
        raise refused_text(failure) from failure


def refused_text(failure: RecursionError | ValueError) -> UnreadableError:
    """Why a parser gave up on a text, otherwise than at a character of it."""
    if isinstance(failure, RecursionError):
        return UnreadableError("is nested too deeply")
    if isinstance(failure, UnicodeDecodeError):
        return UnreadableError("is not UTF-8 text")
    return UnreadableError("holds a number with too many digits")


def read_object(path: str, max_bytes: int) -> dict[str, object]:
    """The file's JSON object. Raises UnreadableError."""
    value = parse(read_bytes(path, max_bytes))
    if not isinstance(value, dict):
        raise UnreadableError("does not hold a JSON object")
    return value


def reason(failure: OSError) -> str:
    """The operating system's words for a failure, in lower case."""
    return (failure.strerror or type(failure).__name__).lower()


def refuse_constant(name: str) -> NoReturn:
    """Raises UnreadableError: `name` is NaN, Infinity or -Infinity."""
    raise UnreadableError(f"is not JSON: {name} is no number that JSON has")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
