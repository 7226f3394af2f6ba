"""What a command prints: reports on stdout, coloured where it is a terminal."""

import json
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from gkdplan.quiet import is_quiet

_NARROWEST, _WIDEST = 60, 120


def width() -> int:
    """Columns for reports: those of the terminal, within what stays readable; else 80."""
    columns = shutil.get_terminal_size(fallback=(80, 24)).columns
    return min(_WIDEST, max(_NARROWEST, columns))


def show(report: str) -> None:
    """Print a report, every line as it is."""
    if not sys.stdout.isatty():
        print(report)
        return
    from rich.console import Console

    from gkdplan.report.colour import coloured

    Console(highlight=False).print(coloured(report), soft_wrap=True)


def remark(line: str) -> None:
    """Say something beside the result, on stderr, to whoever wants to hear it."""
    if not is_quiet():
        print(line, file=sys.stderr)


def show_json(answer: Mapping[str, Any]) -> None:
    """Print the one JSON document of a command."""
    print(json.dumps(answer, indent=2, ensure_ascii=False))
