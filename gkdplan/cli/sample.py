"""`gkdplan sample`: one response of a model to every row, kept in a file."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gkdplan.cli.arguments import AsJson, PlanPath
from gkdplan.cli.compiling import Compiled, blamed, compile_file
from gkdplan.cli.findings import show_findings
from gkdplan.cli.models import with_models_at_hand
from gkdplan.cli.runtime import runtime
from gkdplan.cli.terminal import show, show_json
from gkdplan.facts.weights import fingerprint
from gkdplan.planner.samples import manifest_of_plan, sampling_plan
from gkdplan.report.diagnostics import check_json
from gkdplan.report.samples import samples_written
from gkdplan.vocab import Role

if TYPE_CHECKING:
    from gkdplan.runtime.samples.launch import SamplesResult

GK_MEMORY = "GK3"
"""Sampling holds one of the two models and nothing of the optimizer."""


def sample(
    source: Annotated[
        Role, typer.Option("--source", metavar="teacher|student", help="Whose samples.")
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Where the samples go.")
    ],
    path: PlanPath = None,
    json: AsJson = False,
) -> None:
    """Keep one response of a model to every row in a file."""
    compiled = _compile(path, source)
    with compiled.placing():
        compiled = with_models_at_hand(compiled, lambda: _compile(path, source))
        run_plan = compiled.require()
        assert compiled.facts is not None
        model = getattr(run_plan.models, source)
        weights = fingerprint(model.model, model.revision)
        manifest = manifest_of_plan(run_plan, compiled.facts, source, weights)
        with blamed(run_plan):
            result = runtime("samples.launch").sample(run_plan, manifest, output)
    _show(compiled, result, output, json)
    raise typer.Exit(result.exit_code)


def _compile(path: str | None, source: Role) -> Compiled:
    """The plan that only samples; whether training would fit is no question."""
    compiled = compile_file(path, lambda plan: sampling_plan(plan, source))
    return replace(compiled, diagnostics=compiled.errors_beside(GK_MEMORY))


def _show(compiled: Compiled, result: "SamplesResult", file: str, json: bool) -> None:
    found = compiled.placed(result.diagnostics)
    if json:
        counts = {"exit_code": result.exit_code, "file": file, **result.counts}
        show_json({**check_json(found, None), "result": counts})
        return
    show_findings(found, sys.stderr)
    if result.counts:
        show(samples_written(file, result.counts))
