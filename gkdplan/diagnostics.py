"""What every check returns: one finding with a code, a place, a reason and a computed help."""

from dataclasses import dataclass, replace
from enum import StrEnum


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one line of a plan file; line and column count from 1, length in characters.

    A length of 0 is no stretch of text: what the finding is about is not written in the file.
    """

    file: str
    line: int
    column: int
    length: int


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding.

    `message` is one sentence, lower case, without a final full stop, keys in backticks. `path` is
    the dotted key of the plan it is about ("student.parallel.tensor", "data.train[0]"), or None.
    `label` is the short reason under the caret. `notes` say where numbers came from; `help` is
    what to type instead, computed.
    """

    code: str
    severity: Severity
    message: str
    path: str | None = None
    label: str = ""
    notes: tuple[str, ...] = ()
    help: tuple[str, ...] = ()
    span: Span | None = None

    def at(self, span: Span | None) -> "Diagnostic":
        """The same finding with a place in a file."""
        return replace(self, span=span)


def error(
    code: str,
    message: str,
    path: str | None = None,
    *,
    label: str = "",
    notes: tuple[str, ...] = (),
    help: tuple[str, ...] = (),
) -> Diagnostic:
    """A finding that stops the plan."""
    return Diagnostic(code, Severity.ERROR, message, path, label, notes, help)


def warning(
    code: str,
    message: str,
    path: str | None = None,
    *,
    label: str = "",
    notes: tuple[str, ...] = (),
    help: tuple[str, ...] = (),
) -> Diagnostic:
    """A finding that the plan survives."""
    return Diagnostic(code, Severity.WARNING, message, path, label, notes, help)


def note(
    code: str, message: str, path: str | None = None, *, notes: tuple[str, ...] = ()
) -> Diagnostic:
    """Something the reader should know."""
    return Diagnostic(code, Severity.NOTE, message, path, "", notes, ())


class UserError(Exception):
    """A failure that the user can mend, as the diagnostics that explain it."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in diagnostics))
        self.diagnostics = diagnostics
