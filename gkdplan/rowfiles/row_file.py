"""What every format gives: what a file is, how many rows it holds, and the rows in their order."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Protocol

from gkdplan.json_file import UnreadableError, opened

MAX_ROW_BYTES = 64 * 2**20
CHUNK_BYTES = 2**20

Located = tuple[str, object]
"""Where a row stands, and the row: JSON values, or an UnreadableError where there are none."""


class MissingPackageError(Exception):
    """A format needs a package that is not installed; the text is its name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """sha256 of a whole file (of a dataset's folder that of its files' names and hashes, in their
    order), and the number of its rows."""

    fingerprint: str
    num_rows: int


class RowFile(Protocol):
    """A file, or a folder, of rows. Each method reads it anew, a piece at a time.

    They raise UnreadableError where the whole cannot be read, and MissingPackageError.
    """

    @property
    def path(self) -> str:
        """Where it is."""

    @property
    def num_bytes(self) -> int:
        """Of all that `identity` reads."""

    def identity(self) -> Identity:
        """What the file is."""

    def rows(self) -> Iterator[Located]:
        """The rows, in order."""


def fingerprint_of(path: str) -> str:
    """sha256 of a file, which is never in memory as a whole. Raises UnreadableError."""
    digest = sha256()
    with opened(path) as file:
        for chunk in iter(partial(file.read, CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def refuse_long_row(path: str, place: str) -> UnreadableError:
    """Why a file whose row has no end is not read."""
    return UnreadableError(f"has more than {MAX_ROW_BYTES:,} bytes {place}")
