"""Diagnostics on a stream, with the lines of the plan that they are about."""

import json
from collections.abc import Sequence
from typing import TextIO

from gkdplan.cli.terminal import width
from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.quiet import is_quiet
from gkdplan.runplan.ledger import Ledger


def show_findings(diagnostics: Sequence[Diagnostic], file: TextIO) -> None:
    """Print every finding and their count, with `--quiet` those that are errors; nothing where
    there is none."""
    if is_quiet():
        diagnostics = [found for found in diagnostics if found.severity is Severity.ERROR]
    if not diagnostics:
        return
    from gkdplan.report.diagnostics import write_diagnostics

    write_diagnostics(diagnostics, _text_of(diagnostics), file, width())


def show_findings_json(diagnostics: Sequence[Diagnostic], ledger: Ledger | None = None) -> None:
    """Print the findings on stdout as `check --json` does."""
    from gkdplan.report.diagnostics import check_json

    print(json.dumps(check_json(diagnostics, ledger), indent=2, ensure_ascii=False))


def _text_of(diagnostics: Sequence[Diagnostic]) -> str:
    """The plan that the findings have their places in; nothing where it is gone meanwhile."""
    plan = next((finding.span.file for finding in diagnostics if finding.span), None)
    if plan is None:
        return ""
    try:
        with open(plan, encoding="utf-8-sig", errors="replace", newline="") as file:
            return file.read()
    except OSError:
        return ""
