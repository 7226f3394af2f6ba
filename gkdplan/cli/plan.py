"""`gkdplan plan`: the outline of what a plan decides, and a lock that keeps it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gkdplan.cli.arguments import AsJson, PlanPath, Quiet
from gkdplan.cli.compiling import Compiled, compile_file
from gkdplan.cli.files import read_replaceable_lock, write_whole
from gkdplan.cli.findings import show_findings
from gkdplan.cli.terminal import remark, show, show_json, width
from gkdplan.planner.what_if import peak_differences
from gkdplan.report.changes import change_json, change_list
from gkdplan.report.diagnostics import check_json
from gkdplan.report.outline import outline
from gkdplan.runplan.codec import encode, to_record
from gkdplan.runplan.model import RunPlan


def plan(
    path: PlanPath = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="LOCK", help="Write a lock.")
    ] = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Show every decision, the memory by phase and the steps.

    With `-o` they are kept in a lock, after what differs from the lock that it replaces.
    """
    compiled = compile_file(path)
    replaced = read_replaceable_lock(Path(output)) if output else None
    if output and compiled.ok:
        write_whole(Path(output), encode(compiled.require()))
        remark(f"wrote {output}")
    if json:
        show_json(_answer(compiled, replaced))
    else:
        _show(compiled, replaced, output)
    raise typer.Exit(0 if compiled.ok else 1)


def _show(compiled: Compiled, replaced: RunPlan | None, output: str | None) -> None:
    show_findings(compiled.diagnostics, sys.stderr)
    run_plan = compiled.run_plan
    if run_plan:
        show(outline(run_plan, width()))
    if run_plan and replaced:
        differences = peak_differences(replaced, run_plan)
        show(f"\nchanges to {output}\n{change_list(replaced, run_plan, differences, width())}")


def _answer(compiled: Compiled, replaced: RunPlan | None) -> dict[str, Any]:
    run_plan = compiled.run_plan
    changes = None
    if run_plan and replaced:
        changes = change_json(replaced, run_plan, peak_differences(replaced, run_plan))
    return {
        **check_json(compiled.diagnostics, run_plan.ledger if run_plan else None),
        "run_plan": to_record(run_plan) if run_plan else None,
        "changes": changes,
    }
