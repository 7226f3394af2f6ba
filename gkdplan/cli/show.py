"""`gkdplan show`: the outline of a lock, or of a plan, without any check against the world."""

import sys
from typing import Annotated

import typer

from gkdplan.cli.files import compile_or_read
from gkdplan.cli.findings import show_findings
from gkdplan.cli.terminal import show as show_report
from gkdplan.cli.terminal import show_json, width
from gkdplan.report.outline import outline
from gkdplan.runplan.codec import to_record


def show(
    path: Annotated[str | None, typer.Argument(metavar="PLAN|LOCK")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a lock decided."""
    compiled = compile_or_read(path)
    show_findings(compiled.diagnostics, sys.stderr)
    if compiled.run_plan is None:
        raise typer.Exit(1)
    if json:
        show_json(to_record(compiled.run_plan))
    else:
        show_report(outline(compiled.run_plan, width()))
