"""A file of samples while it is written: beside its place, until it is whole."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.samples import Manifest, manifest_record


@dataclass(frozen=True, slots=True)
class PartialFile:
    """The samples so far of what becomes `final`, which does not exist yet."""

    final: Path

    @property
    def path(self) -> Path:
        return partial_of(self.final)

    def append(self, samples: list[dict[str, Any]]) -> None:
        """Whole lines, at once."""
        with self.path.open("ab") as file:
            file.write(b"".join(map(_line, samples)))

    def finish(self) -> None:
        """Give the file its name; raises UserError (GK520) where another came there meanwhile."""
        refuse_existing(self.final)
        self.path.rename(self.final)


def partial_of(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


@contextmanager
def open_partial(final: Path, manifest: Manifest) -> Iterator[tuple[PartialFile, int]]:
    """Hold the unfinished file as its only writer, with the number of samples that it has.

    Raises UserError: GK520 where `final` is there, GK505 where nothing can be written, GK563 where
    another process writes it, GK562 where what is unfinished has another manifest.
    """
    refuse_existing(final)
    partial = PartialFile(final)
    try:
        file = partial.path.open("a+b")
    except (OSError, ValueError) as failure:
        raise UserError(_unusable(final, failure)) from failure
    with file:
        _lock(file, final)
        yield partial, _claim(file, partial, manifest)


def refuse_existing(final: Path) -> None:
    """Raises UserError (GK520)."""
    if os.path.lexists(final):
        raise UserError(
            error(
                "GK520",
                f"`{final}` is there already, and no file is overwritten",
                notes=("it is left as it is",),
                help=("name another file after `-o`",),
            )
        )


def _lock(file: BinaryIO, final: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            error(
                "GK563",
                f"another process is sampling into `{final}`",
                help=("wait for it or stop it, or name another file after `-o`",),
            )
        ) from None


def _claim(file: BinaryIO, partial: PartialFile, manifest: Manifest) -> int:
    """The number of whole samples; a line that was cut short is dropped."""
    file.seek(0)
    lines = file.read().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    first = _line(manifest_record(manifest))
    if whole and whole[0] != first:
        raise UserError(_of_another_plan(partial))
    file.truncate(sum(map(len, whole)))
    if not whole:
        file.write(first)
        file.flush()
    return max(0, len(whole) - 1)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _of_another_plan(partial: PartialFile) -> Diagnostic:
    return error(
        "GK562",
        f"`{partial.path}` holds unfinished samples that were drawn otherwise",
        notes=("it is left as it is",),
        help=(f"remove it, or name another file than `{partial.final}` after `-o`",),
    )


def _unusable(final: Path, failure: Exception) -> Diagnostic:
    reason = failure.strerror if isinstance(failure, OSError) else str(failure)
    return error(
        "GK505",
        f"`{final}` cannot be written: {str(reason).lower()}",
        help=("name a file in a directory that is there and can be written",),
    )
