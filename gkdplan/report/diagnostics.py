"""Diagnostics as text in the manner of rustc, and as JSON."""

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from gkdplan.diagnostics import Diagnostic, Severity, Span
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.model import SCHEMA_VERSION

Piece = tuple[str, str]
"""Words and their style on a terminal."""
Line = tuple[Piece, ...]

_COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}
_GUTTER = "bold bright_blue"


def write_diagnostics(
    diagnostics: Sequence[Diagnostic], text: str, file: TextIO, width: int = 80
) -> None:
    """Write every finding and a line that counts them; nothing where there is none.

    `text` is the plan, whose lines are quoted. Colour appears where `file` is a terminal.
    """
    if not diagnostics:
        return
    lines = [line for finding in diagnostics for line in (*_block(finding, text, width), ())]
    if counted := summary(diagnostics):
        lines.append(((counted, "bold"),))
    if file.isatty():
        _write_coloured(lines, file)
    else:
        file.writelines("".join(words for words, _ in line).rstrip() + "\n" for line in lines)


def render(finding: Diagnostic, text: str, width: int = 80) -> str:
    """One finding as plain text."""
    lines = _block(finding, text, width)
    return "\n".join("".join(words for words, _ in line).rstrip() for line in lines)


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """ "2 errors, 1 warning"; empty where there is neither."""
    counts = ((_count(diagnostics, kind), kind) for kind in (Severity.ERROR, Severity.WARNING))
    return ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for n, kind in counts if n)


def check_json(diagnostics: Sequence[Diagnostic], ledger: Ledger | None) -> dict[str, Any]:
    """The answer of `check --json`; figures of memory are null where nothing was compiled."""
    num_errors = _count(diagnostics, Severity.ERROR)
    return {
        "schema_version": SCHEMA_VERSION,
        "ok": num_errors == 0,
        "diagnostics": [finding_json(finding) for finding in diagnostics],
        "summary": {
            "num_errors": num_errors,
            "num_warnings": _count(diagnostics, Severity.WARNING),
            "peak_bytes": ledger.peak_bytes if ledger else None,
            "budget_bytes": ledger.budget_bytes if ledger else None,
            "verdict": ledger.verdict if ledger else None,
        },
    }


def _count(diagnostics: Sequence[Diagnostic], severity: Severity) -> int:
    return sum(finding.severity is severity for finding in diagnostics)


def finding_json(finding: Diagnostic) -> dict[str, Any]:
    """One finding as `check --json` gives it."""
    span = finding.span
    return {
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "path": finding.path,
        "span": span
        and {"file": span.file, "line": span.line, "column": span.column, "length": span.length},
        "label": finding.label,
        "notes": list(finding.notes),
        "help": list(finding.help),
    }


def _block(finding: Diagnostic, text: str, width: int) -> list[Line]:
    """The lines of one finding."""
    colour = _COLOURS[finding.severity]
    title = f"{finding.severity}[{finding.code}]"
    first, *others = wrap(f"{title}: ", _clean(finding.message), width).split("\n")
    lines: list[Line] = [((title, colour), (first.removeprefix(title), "bold"))]
    lines += [((words, "bold"),) for words in others]
    margin, notes = " ", finding.notes
    if span := finding.span:
        margin = " " * (len(str(span.line)) + 1)
        place = f"{_clean(span.file)}:{span.line}:{span.column}"
        lines.append(((f"{margin[1:]}--> ", _GUTTER), (place, "")))
    if span and span.length and text and span.line <= len(text.split("\n")):
        lines += _quote(span, text, _clean(finding.label), margin, colour, width)
    elif finding.label:
        notes = (finding.label, *notes)
    for kind, sentences in (("note", notes), ("help", finding.help)):
        for sentence in sentences:
            start = f"{margin}= {kind}: "
            first, *others = wrap(start, _clean(sentence), width).split("\n")
            words = first.removeprefix(start)
            lines.append(((f"{margin}= ", _GUTTER), (f"{kind}: ", "bold"), (words, "")))
            lines += [((words, ""),) for words in others]
    return lines


def _quote(
    span: Span, text: str, label: str, margin: str, colour: str, width: int
) -> Iterator[Line]:
    """The line of the plan with carets below the stretch that is meant."""
    line = text.split("\n")[span.line - 1].rstrip("\r")
    start = span.column - 1
    before, meant = line[:start], line[start : start + span.length]
    shift = _num_columns(before)
    room = max(20, width - len(margin) - 2)
    num_carets = max(1, min(_num_columns(meant), room - 1))
    shown = "".join(map(_shown, line))
    if _num_columns(line) > room:
        cut = max(0, min(shift - 4, shift + num_carets + 16 - room)) if shift > room // 2 else 0
        shown, shift = shown[cut : cut + room], shift - cut
    yield ((f"{margin}|", _GUTTER),)
    yield ((f"{str(span.line).ljust(len(margin))}| ", _GUTTER), (shown, ""))
    carets = " " * shift + "^" * num_carets
    labels = textwrap.wrap(label, max(20, room - len(carets) - 1), break_on_hyphens=False) or [""]
    yield ((f"{margin}| ", _GUTTER), (f"{carets} {labels[0]}", colour))
    for words in labels[1:]:
        yield ((f"{margin}| ", _GUTTER), (" " * (len(carets) + 1) + words, colour))


def _clean(words: str) -> str:
    """Lines as they are, and nothing else that a terminal would obey."""
    return "".join(c if c == "\n" else _shown(c) for c in words)


def _shown(character: str) -> str:
    """A tab as four columns; nothing that a terminal would obey."""
    return "    " if character == "\t" else character if character.isprintable() else "\ufffd"


def _num_columns(text: str) -> int:
    """Columns that the text takes on a terminal."""
    return sum(_columns_of(character) for character in text)


def _columns_of(character: str) -> int:
    if character == "\t":
        return 4
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _write_coloured(lines: list[Line], file: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, highlight=False)
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)
