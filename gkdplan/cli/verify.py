"""`gkdplan verify`: what the plan says of memory, held against the program that it plans."""

import sys
import warnings
from typing import Annotated

import typer

from gkdplan import __version__
from gkdplan.cli.arguments import AsJson, PlanPath
from gkdplan.cli.compiling import Compiled, blamed, compile_file, compile_for_device
from gkdplan.cli.findings import show_findings
from gkdplan.cli.runtime import runtime
from gkdplan.cli.terminal import show, show_json, width
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.report.trace import compare, trace_json, trace_table
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import SCHEMA_VERSION, RunPlan
from gkdplan.vocab import Tier

TOLERANCE = 0.01
"""Of the trace: how far a phase's planned peak may be off."""
GK_MEMORY = "GK3"
"""A plan that does not fit can be traced all the same."""


def verify(
    path: PlanPath = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Hold the ledger against a traced step.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Hold a plan's ledger against a traced step of the real model."""
    if not trace:
        raise UserError(
            error(
                "GK590",
                f"`gkdplan verify` without `--trace` is not yet available in gkdplan {__version__}",
                help=("add `--trace`",),
            )
        )
    compiled = compile_file(path)
    run_plan = _priced(compiled)
    if not json:
        show_findings(compiled.diagnostics, sys.stderr)
    notes = [_SCOPE]
    if run_plan.layout.backend != "gloo":
        notes.append(_twin_note(run_plan))
        run_plan = _priced(compile_for_device(compiled, "cpu"))
    with blamed(run_plan), warnings.catch_warnings(action="ignore"):
        classes = compare(run_plan, runtime("trace").trace(run_plan))
    ok = all(abs(error) <= TOLERANCE for of_class in classes for error in of_class.errors)
    if json:
        show_json(
            {
                "schema_version": SCHEMA_VERSION,
                "ok": ok,
                "tolerance": TOLERANCE,
                "device": run_plan.layout.device,
                **trace_json(classes),
                "notes": notes,
            }
        )
    else:
        verdict = "every traced phase is" if ok else "not every traced phase is"
        lines = [f"{verdict} within {TOLERANCE:.0%}", *(wrap("note: ", n, width()) for n in notes)]
        show("\n".join([trace_table(classes), *lines]))
    raise typer.Exit(0 if ok else 1)


_SCOPE = "tensors only: the ledger's overhead lies outside them and is left out"


def _twin_note(run_plan: RunPlan) -> str:
    return (
        f"traced and priced for device cpu, not {run_plan.layout.device}: fused kernels do not run"
        " here; params, grads, main + Adam, teacher, kv cache and payload have one formula on both;"
        " activations, loss tiles and temporaries have the cpu's"
    )


def _priced(compiled: Compiled) -> RunPlan:
    """The run plan, also of a plan that does not fit; raises UserError for any other error."""
    if compiled.run_plan is None or compiled.errors_beside(GK_MEMORY):
        raise UserError(*compiled.diagnostics)
    if compiled.run_plan.sampling.vllm is not None:
        raise UserError(_not_traced("generation.engine", "vllm"))
    if compiled.run_plan.optimizer.offload is Tier.HOST:
        raise UserError(_not_traced("optimizer.offload", "cpu"))
    return compiled.run_plan


def _not_traced(path: str, value: str) -> Diagnostic:
    return error(
        "GK591",
        f'`gkdplan verify --trace` does not yet trace `{path} = "{value}"` in gkdplan '
        f"{__version__}",
        path,
        help=("take it out of the plan",),
    )
