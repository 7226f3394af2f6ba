"""A file, or a directory of files, that holds one table."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

FORMATS = (
    ".jsonl (one row a line), .json (one list), .csv, .parquet, and directories that "
    "`save_to_disk` of Hugging Face's datasets wrote"
)


class TableError(Exception):
    """Why a table cannot be read: the text completes a sentence that starts with its name."""


class NoReaderError(TableError):
    """The package that reads the format is not installed."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is none, and why: the text completes a sentence that starts with its place."""

    reason: str


@dataclass(frozen=True, slots=True)
class Table:
    """`num_rows` where the format says how many there are before they are read."""

    rows: Iterator[tuple[str, dict[str, object] | BadRow]]
    num_rows: int | None = None


def is_table(path: str) -> bool:
    """Whether `open_table` is what reads it; it may still not be there."""
    return os.path.splitext(path)[1].lower() in (".csv", ".parquet") or os.path.isdir(path)


def open_table(path: str) -> Table:
    """The rows in their order, no more than a batch of them in memory; cells without a value are
    left out.

    Raises TableError, also while rows are read, and NoReaderError where pyarrow is missing.
    """
    from gkdplan.rowfiles import columns, csv_lines

    readers: dict[str, Callable[[str], Table]] = {
        ".csv": csv_lines.read,
        ".parquet": columns.read_parquet,
    }
    if os.path.isdir(path):
        return columns.read_saved(path)
    if not os.path.isfile(path):
        raise TableError("is not a file" if os.path.lexists(path) else "is not there")
    return readers[os.path.splitext(path)[1].lower()](path)


def fingerprint_of(path: str) -> str:
    """sha256 of a file, or of the names and hashes of a directory's files.

    Raises TableError.
    """
    try:
        if not os.path.isdir(path):
            return _sha256(path)
        whole = hashlib.sha256()
        for name in sorted(os.listdir(path)):
            if os.path.isfile(os.path.join(path, name)):
                whole.update(f"{name} {_sha256(os.path.join(path, name))}\n".encode())
        return whole.hexdigest()
    except OSError as failure:
        reason = (failure.strerror or type(failure).__name__).lower()
        raise TableError(f"cannot be read: {reason}") from failure


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
