"""`gkdplan launch`: what starts a plan's ranks on its nodes, to be read and handed on."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson, PlanPath, Quiet
from gkdplan.cli.compiling import DEFAULT_PLAN, compile_file
from gkdplan.cli.findings import show_findings
from gkdplan.cli.terminal import show_json
from gkdplan.report import launching
from gkdplan.report.diagnostics import check_json


class Scheduler(StrEnum):
    SLURM = "slurm"
    TORCHRUN = "torchrun"
    K8S = "k8s"


def launch(
    scheduler: Annotated[Scheduler, typer.Argument(help="What starts the ranks.")],
    path: PlanPath = None,
    image: Annotated[
        str, typer.Option(help="Of k8s: the container image, with gkdplan installed.")
    ] = "gkdplan:latest",
    claim: Annotated[
        str, typer.Option(help="Of k8s: the volume claim with the plan and its files, at /work.")
    ] = "gkdplan-work",
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Print what starts a plan on its nodes: a script or a manifest."""
    compiled = compile_file(path)
    run_plan, plan = compiled.require(), path or DEFAULT_PLAN
    match scheduler:
        case Scheduler.SLURM:
            text = launching.slurm(run_plan, plan)
        case Scheduler.TORCHRUN:
            text = launching.torchrun(run_plan, plan)
        case Scheduler.K8S:
            text = launching.k8s(run_plan, plan, image, claim)
    if json:
        show_json(check_json(compiled.diagnostics, run_plan.ledger) | {"text": text})
        return
    show_findings(compiled.diagnostics, sys.stderr)
    print(text, end="")
