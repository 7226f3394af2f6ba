"""`gkdplan plan`: the outline of what a plan decides, and a lock that keeps it."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gkdplan.cli.arguments import AsJson, PlanPath
from gkdplan.cli.compiling import Compiled, compile_file
from gkdplan.cli.files import read_replaceable_lock, write_whole
from gkdplan.cli.findings import show_findings
from gkdplan.cli.terminal import show, show_json, width
from gkdplan.report.changes import change_list
from gkdplan.report.diagnostics import check_json
from gkdplan.report.outline import outline
from gkdplan.runplan.codec import encode, to_record
from gkdplan.runplan.diff import Change, compare


def plan(
    path: PlanPath = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="LOCK", help="Write a lock.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Show every decision, the memory by phase and the steps.

    With `-o` they are kept in a lock, after what differs from the lock that it replaces.
    """
    compiled = compile_file(path)
    replaced = read_replaceable_lock(Path(output)) if output else None
    changes = compare(replaced, compiled.run_plan) if replaced and compiled.run_plan else None
    if output and compiled.ok:
        write_whole(Path(output), encode(compiled.require()))
        print(f"wrote {output}", file=sys.stderr)
    if json:
        show_json(_answer(compiled, changes))
    else:
        _show(compiled, changes, output)
    raise typer.Exit(0 if compiled.ok else 1)


def _show(compiled: Compiled, changes: Sequence[Change] | None, output: str | None) -> None:
    show_findings(compiled.diagnostics, sys.stderr)
    if compiled.run_plan:
        show(outline(compiled.run_plan, width()))
    if changes is not None:
        show(f"\nchanges to {output}\n{change_list(changes, width())}")


def _answer(compiled: Compiled, changes: Sequence[Change] | None) -> dict[str, Any]:
    run_plan = compiled.run_plan
    return {
        **check_json(compiled.diagnostics, run_plan.ledger if run_plan else None),
        "run_plan": to_record(run_plan) if run_plan else None,
        "changes": None if changes is None else [asdict(change) for change in changes],
    }
