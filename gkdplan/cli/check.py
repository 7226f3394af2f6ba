"""`gkdplan check`: every finding, then the verdict and the peak in one line."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson, PlanPath, Quiet
from gkdplan.cli.compiling import Compiled, compile_file
from gkdplan.cli.findings import show_findings
from gkdplan.cli.terminal import remark, show, show_json, width
from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.report.verdict import verdict
from gkdplan.runplan.row_lengths import SplitLengths
from gkdplan.spec.plan import Plan

WithData = Annotated[
    bool,
    typer.Option(
        "--data", help="Read every row as tokens too: lengths, what is cut, what a run refuses."
    ),
]


Fetches = Annotated[
    bool,
    typer.Option(
        "--fetch", help="With --data: fetch the images of addresses first, into `data.cache`."
    ),
]


def check(
    path: PlanPath = None,
    data: WithData = False,
    fetch: Fetches = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Say what is wrong with a plan, whether it fits, and its peak."""
    compiled = compile_file(path)
    if fetch:
        _require_what_fetching_takes(compiled.plan, data=data)
    splits: Sequence[SplitLengths] = ()
    findings = compiled.diagnostics
    if data and compiled.ok:
        from gkdplan.cli.row_lengths import measured

        splits, found = measured(compiled, fetches=fetch)
        findings += found
    elif data:
        remark("the rows were not read as tokens: the plan has errors")
    if json:
        _print_json(compiled, findings, splits if data else None)
    else:
        show_findings(findings, sys.stdout)
        if splits:
            from gkdplan.report.row_lengths import row_lengths

            show(row_lengths(splits, width()) + "\n")
        if compiled.run_plan:
            print(verdict(compiled.run_plan))
    has_errors = any(finding.severity is Severity.ERROR for finding in findings)
    raise typer.Exit(1 if has_errors else 0)


def _require_what_fetching_takes(plan: Plan | None, *, data: bool) -> None:
    """A run's own directory may not hold anything before the run."""
    if not data:
        raise typer.BadParameter("`--fetch` goes with `--data`")
    if plan is None:
        return
    for key, way in (("image_hosts", "from"), ("cache", "into")):
        if not getattr(plan.data, key):
            unset = f"`--fetch` fetches {way} `data.{key}`, which the plan does not set"
            raise typer.BadParameter(unset)


def _print_json(
    compiled: Compiled,
    findings: Sequence[Diagnostic],
    splits: Sequence[SplitLengths] | None,
) -> None:
    from gkdplan.report.diagnostics import check_json
    from gkdplan.report.row_lengths import row_lengths_json

    ledger = compiled.run_plan.ledger if compiled.run_plan else None
    lengths = {} if splits is None else {"data": row_lengths_json(splits)}
    show_json({**check_json(findings, ledger), **lengths})
