"""`gkdplan memory`: the dry-run memory report of a plan or a lock."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson, PlanOrLockPath, Quiet
from gkdplan.cli.files import compile_or_read, write_page
from gkdplan.cli.findings import show_findings
from gkdplan.cli.terminal import remark, show, show_json, width
from gkdplan.report.diagnostics import check_json
from gkdplan.report.memory import memory_report
from gkdplan.report.outline import header
from gkdplan.report.residency import timeline_json
from gkdplan.runplan.codec import to_record
from gkdplan.runplan.model import SCHEMA_VERSION, RunPlan


def memory(
    path: PlanOrLockPath = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write a page as well.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show a number's formula, as student.activations."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(metavar="RANK", help="Of this rank, where the fullest are not asked for."),
    ] = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Show every buffer by phase, the peak, the budget and the moves."""
    if rank is not None and explain is None:
        raise typer.BadParameter("`--rank` says of which rank `--explain NAME` is")
    compiled = compile_or_read(path)
    run_plan = compiled.run_plan
    if html and run_plan:
        from gkdplan.report.page import lock_page

        write_page(Path(html), lock_page(run_plan, compiled.diagnostics))
        remark(f"wrote {html}")
    if explain is not None:
        _explain(compiled.decided(), explain, rank, as_json=json)
        return
    if json:
        answer = check_json(compiled.diagnostics, run_plan.ledger if run_plan else None)
        record = to_record(run_plan) if run_plan else {}
        parts = {"ledger": record.get("ledger"), "schedule": record.get("schedule")}
        show_json({**answer, **parts, "timeline": timeline_json(run_plan) if run_plan else None})
    else:
        show_findings(compiled.diagnostics, sys.stderr)
        if run_plan:
            show(f"{header(run_plan, width())}\n\n{memory_report(run_plan, width())}")
    raise typer.Exit(0 if compiled.ok else 1)


def _explain(run_plan: RunPlan, name: str, rank: int | None, *, as_json: bool) -> None:
    from gkdplan.cli.formulas import explained
    from gkdplan.report.formula import formula_json, formula_report

    explanations = explained(run_plan, name, rank)
    if as_json:
        rows = formula_json(explanations, run_plan.ledger)
        show_json({"schema_version": SCHEMA_VERSION, "ok": True, "explanations": rows})
    else:
        show(formula_report(explanations, run_plan.ledger, width()))
