"""Files of the commands: locks are read strictly, and everything is written whole."""

import os
from pathlib import Path

from gkdplan.cli.compiling import Compiled, compile_file
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.codec import decode
from gkdplan.runplan.model import RunPlan

PAGE_BEGINNING = b"<!doctype html>"


def compile_or_read(path: str | None) -> Compiled:
    """What a PLAN|LOCK argument names: a name that ends in .json is a lock, any other a plan.

    Raises UserError where it is a lock that cannot be used.
    """
    if path is not None and path.endswith(".json"):
        return Compiled(None, read_lock(Path(path)), ())
    return compile_file(path)


def read_lock(path: Path) -> RunPlan:
    """The run plan in a lock file.

    Raises UserError: GK505 where the file cannot be read, and what `codec.decode` raises.
    """
    return decode(_read(path), str(path))


def read_replaceable_lock(path: Path) -> RunPlan | None:
    """The lock that a new one at `path` will replace; None where there is none that can be read.

    A lock that was edited, or that another version wrote, may be replaced. Raises UserError where
    something lies there that is not a lock, as that must not be overwritten.
    """
    if not os.path.lexists(path):
        return None
    try:
        return read_lock(path)
    except UserError as refusal:
        if all(finding.code in ("GK503", "GK504") for finding in refusal.diagnostics):
            return None
        raise UserError(*map(_not_overwritten, refusal.diagnostics)) from None


def write_page(path: Path, page: str) -> None:
    """Write an HTML page, also over another one, but over nothing else.

    Raises UserError (GK508) where another file is there, and what `write_whole` raises.
    """
    if os.path.isfile(path) and not _read_beginning(path).lower().startswith(PAGE_BEGINNING):
        raise UserError(
            error(
                "GK508",
                f"`{path}` is no page, and nothing else is overwritten",
                notes=("it is left as it is",),
                help=("name another file for the page, such as `report.html`",),
            )
        )
    write_whole(path, page)


def refuse_existing(path: Path) -> None:
    """Raises UserError (GK520) where something lies at `path`."""
    if os.path.lexists(path):
        raise UserError(
            error(
                "GK520",
                f"`{path}` is there already, and no file is overwritten",
                notes=("it is left as it is",),
                help=("name another file after `-o`",),
            )
        )


def read_text(path: str) -> str:
    """The UTF-8 text of a file; raises UserError (GK505) where it cannot be read."""
    return _read(Path(path))


def write_whole(path: Path, text: str) -> None:
    """Replace the file at `path` at once, so that no half of one is ever there.

    Raises UserError (GK505) where the file cannot be written.
    """
    try:
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    except (OSError, ValueError) as failure:
        raise UserError(_unusable(path, "written", failure)) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as failure:
        raise UserError(_unusable(path, "read", failure)) from None


def _read_beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(PAGE_BEGINNING))
    except OSError as failure:
        raise UserError(_unusable(path, "read", failure)) from None


def _unusable(path: Path, done: str, failure: Exception) -> Diagnostic:
    """An OSError, a text that is not UTF-8, or a name that no file can have."""
    match failure:
        case OSError():
            reason = (failure.strerror or str(failure)).lower()
        case UnicodeDecodeError():
            reason = "it is not UTF-8"
        case _:
            reason = str(failure)
    return error("GK505", f"`{path}` cannot be {done}: {reason}")


def _not_overwritten(finding: Diagnostic) -> Diagnostic:
    return error(
        finding.code,
        finding.message,
        finding.path,
        notes=(*finding.notes, "it is left as it is"),
        help=("name another file after `-o`",),
    )
