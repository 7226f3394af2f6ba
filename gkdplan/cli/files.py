"""Files of the commands: locks are read strictly, and everything is written whole."""

import os
from pathlib import Path

from gkdplan.cli.compiling import Compiled, compile_file
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.codec import decode
from gkdplan.runplan.model import RunPlan


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
    if not path.exists():
        return None
    try:
        return read_lock(path)
    except UserError as refusal:
        if all(finding.code in ("GK503", "GK504") for finding in refusal.diagnostics):
            return None
        raise UserError(*map(_not_overwritten, refusal.diagnostics)) from None


def write_whole(path: Path, text: str) -> None:
    """Replace the file at `path` at once, so that no half of one is ever there.

    Raises UserError (GK505) where the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    except OSError as failure:
        raise UserError(_unusable(path, "written", failure)) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise UserError(_unusable(path, "read", failure)) from None


def _unusable(path: Path, done: str, failure: Exception) -> Diagnostic:
    reason = failure.strerror if isinstance(failure, OSError) else "it is not UTF-8"
    return error("GK505", f"`{path}` cannot be {done}: {str(reason).lower()}")


def _not_overwritten(finding: Diagnostic) -> Diagnostic:
    return error(
        finding.code,
        finding.message,
        finding.path,
        notes=(*finding.notes, "it is left as it is"),
        help=("name another file after `-o`",),
    )
