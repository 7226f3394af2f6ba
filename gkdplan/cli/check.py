"""`gkdplan check`: every finding, then the verdict and the peak in one line."""

import sys

import typer

from gkdplan.cli.arguments import AsJson, PlanPath, Quiet
from gkdplan.cli.compiling import compile_file
from gkdplan.cli.findings import show_findings, show_findings_json
from gkdplan.report.verdict import verdict


def check(path: PlanPath = None, quiet: Quiet = False, json: AsJson = False) -> None:
    """Say what is wrong with a plan, whether it fits, and its peak."""
    compiled = compile_file(path)
    if json:
        ledger = compiled.run_plan.ledger if compiled.run_plan else None
        show_findings_json(compiled.diagnostics, ledger)
    else:
        show_findings(compiled.diagnostics, sys.stdout)
        if compiled.run_plan:
            print(verdict(compiled.run_plan))
    raise typer.Exit(0 if compiled.ok else 1)
