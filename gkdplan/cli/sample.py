"""`gkdplan sample`: one response of a model to every row, kept in a file."""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from gkdplan.cli.arguments import AsJson, PlanPath, Quiet
from gkdplan.cli.compiling import Compiled, blamed, compile_file, compile_loaded
from gkdplan.cli.findings import show_findings
from gkdplan.cli.models import with_models_at_hand
from gkdplan.cli.runtime import runtime
from gkdplan.cli.terminal import show, show_json
from gkdplan.diagnostics import UserError, error
from gkdplan.facts.weights import fingerprint
from gkdplan.planner.samples import (
    engine_of_samples,
    manifest_of_plan,
    sampling_plan,
    takes_vllm_on_the_ranks,
    with_the_teacher_as_student,
)
from gkdplan.report.diagnostics import check_json
from gkdplan.report.samples import samples_written
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import ModelPlan
from gkdplan.samples import Manifest
from gkdplan.vocab import Engine, Role

if TYPE_CHECKING:
    from gkdplan.runtime.samples.launch import SamplesResult

GK_FIT = ("GK301", "GK302", "GK303")
"""Whether training fits is no question: sampling holds one model, and nothing of the optimizer."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What is to be sampled: `run_plan` draws it with the model that has the place `drawn_as`, to
    prompts that `renderer`'s tokenizer makes."""

    compiled: Compiled
    run_plan: RunPlan
    manifest: Manifest
    drawn_as: Role
    renderer: ModelPlan


def sample(
    source: Annotated[
        Role, typer.Option("--source", metavar="teacher|student", help="Whose samples.")
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Where the samples go.")
    ],
    path: PlanPath = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Keep one response of a model to every row in a file."""
    decided = decide(path, source)
    run_plan = decided.run_plan
    with blamed(run_plan), decided.compiled.placing():
        launch = runtime("samples.launch")
        model = decided.drawn_as, decided.renderer
        result = launch.sample(run_plan, decided.manifest, *model, output)
    _show(decided.compiled, result, output, json)
    raise typer.Exit(result.exit_code)


def decide(path: str | None, source: Role) -> Decided:
    """Raises UserError with what stands in the way, at its place in the plan."""
    compiled = _compile(path, source)
    with compiled.placing():
        if source is Role.TEACHER and compiled.plan is not None and compiled.plan.teacher.self_:
            raise UserError(
                error(
                    "GK006",
                    "samples of the teacher are asked for, and the teacher is the student itself",
                    "teacher.self",
                    help=("sample with `--source student`",),
                )
            )
        compiled = with_models_at_hand(compiled, lambda: _compile(path, source))
        run_plan, drawn_as = _drawing(compiled, source)
        manifest = _manifest(compiled, source, engine_of_samples(run_plan, drawn_as))
        renderer = compiled.require().models.student
        return Decided(compiled, run_plan, manifest, drawn_as, renderer)


def _compile(path: str | None, source: Role) -> Compiled:
    """The plan that only samples."""
    compiled = compile_file(path, lambda plan: sampling_plan(plan, source))
    return replace(compiled, diagnostics=compiled.errors_beside(*GK_FIT))


def _drawing(compiled: Compiled, source: Role) -> tuple[RunPlan, Role]:
    """The run plan that draws the samples, and whose place the model has in it."""
    run_plan, plan = compiled.require(), compiled.plan
    assert plan is not None
    if source is Role.STUDENT or not takes_vllm_on_the_ranks(plan):
        return run_plan, source
    drawing = compile_loaded(with_the_teacher_as_student(plan))
    if errors := drawing.errors_beside(*GK_FIT):
        raise UserError(*errors)
    return drawing.decided(), Role.STUDENT


def _manifest(compiled: Compiled, source: Role, engine: Engine) -> Manifest:
    """What a teacher's servers hold is not seen."""
    run_plan = compiled.require()
    assert compiled.facts is not None
    model = getattr(run_plan.models, source)
    is_served = source is Role.TEACHER and run_plan.models.teacher.server is not None
    weights = None if is_served else fingerprint(model.model, model.revision)
    return manifest_of_plan(run_plan, compiled.facts, source, weights, engine)


def _show(compiled: Compiled, result: "SamplesResult", file: str, json: bool) -> None:
    found = compiled.placed(result.diagnostics)
    if json:
        counts = {"exit_code": result.exit_code, "file": file, **result.counts}
        show_json({**check_json(found, None), "result": counts})
        return
    show_findings(found, sys.stderr)
    if result.counts:
        show(samples_written(file, result.counts))
