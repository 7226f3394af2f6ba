"""`gkdplan diff`: what differs between two plans or locks, by decision."""

from dataclasses import asdict
from typing import Annotated

import typer

from gkdplan.cli.files import compile_or_read
from gkdplan.cli.terminal import show, show_json, width
from gkdplan.diagnostics import UserError
from gkdplan.report.changes import change_list
from gkdplan.runplan.diff import compare
from gkdplan.runplan.model import SCHEMA_VERSION, RunPlan


def diff(
    old: Annotated[str, typer.Argument(metavar="PLAN|LOCK")],
    new: Annotated[str, typer.Argument(metavar="PLAN|LOCK")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the changes from one plan or lock to another, each safe, reshard or restart."""
    changes = compare(_run_plan(old), _run_plan(new))
    if json:
        rows = [asdict(change) for change in changes]
        show_json({"schema_version": SCHEMA_VERSION, "ok": True, "changes": rows})
    else:
        show(change_list(changes, width()))


def _run_plan(path: str) -> RunPlan:
    """What was decided, though it may not fit."""
    compiled = compile_or_read(path)
    if compiled.run_plan is None:
        raise UserError(*compiled.diagnostics)
    return compiled.run_plan
