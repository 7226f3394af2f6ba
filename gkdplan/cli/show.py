"""`gkdplan show`: the outline of a lock as it was decided, or of a plan."""

import sys

from gkdplan.cli.arguments import AsJson, PlanOrLockPath, Quiet
from gkdplan.cli.files import compile_or_read
from gkdplan.cli.findings import show_findings
from gkdplan.cli.terminal import show as show_report
from gkdplan.cli.terminal import show_json, width
from gkdplan.report.outline import outline
from gkdplan.runplan.codec import to_record


def show(path: PlanOrLockPath = None, quiet: Quiet = False, json: AsJson = False) -> None:
    """Print what a lock, or a plan, decides."""
    compiled = compile_or_read(path)
    run_plan = compiled.decided()
    show_findings(compiled.diagnostics, sys.stderr)
    if json:
        show_json(to_record(run_plan))
    else:
        show_report(outline(run_plan, width()))
