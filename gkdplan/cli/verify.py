"""`gkdplan verify`: what the plan says, held against the program that it plans."""

import sys
import warnings
from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson, PlanPath, Quiet
from gkdplan.cli.compiling import (
    Compiled,
    blamed,
    compile_file,
    compile_for_device,
    compile_without_vllm,
)
from gkdplan.cli.findings import show_findings
from gkdplan.cli.rehearsing import rehearse
from gkdplan.cli.runtime import runtime
from gkdplan.cli.terminal import show, show_json, width
from gkdplan.cli.waiting import bar
from gkdplan.diagnostics import UserError
from gkdplan.report.rehearsal import rehearsal_json, rehearsal_report
from gkdplan.report.trace import compare, trace_json, trace_table
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import SCHEMA_VERSION, RunPlan

TOLERANCE = 0.01
"""Of the trace: how far a phase's planned peak may be off."""
GK_MEMORY = "GK3"
"""A plan that does not fit can be verified all the same."""


def verify(
    path: PlanPath = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Hold the ledger against a traced step instead.")
    ] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Hold a plan's step, at reduced size, against one process."""
    compiled = compile_file(path)
    run_plan = _decided(compiled)
    if not json:
        show_findings(compiled.diagnostics, sys.stderr)
    with blamed(run_plan), compiled.placing():
        ok = (_verify_memory if trace else _verify_step)(compiled, run_plan, json)
    raise typer.Exit(0 if ok else 1)


def _verify_step(compiled: Compiled, run_plan: RunPlan, json: bool) -> bool:
    with bar("the step at reduced size"):
        small, checks = rehearse(compiled, run_plan)
    if json:
        show_json({"schema_version": SCHEMA_VERSION, **rehearsal_json(small, run_plan, checks)})
    else:
        show(rehearsal_report(small, run_plan, checks, width()))
    return all(check.holds for check in checks)


def _verify_memory(compiled: Compiled, run_plan: RunPlan, json: bool) -> bool:
    notes = [_SCOPE]
    if run_plan.sampling.vllm is not None:
        notes.append(_WITHOUT_VLLM)
        compiled = compile_without_vllm(compiled)
        run_plan = _decided(compiled)
    if run_plan.layout.backend != "gloo":
        notes.append(_twin_note(run_plan))
        run_plan = _decided(compile_for_device(compiled, "cpu"))
    with warnings.catch_warnings(action="ignore"), bar("classes of ranks") as tell:
        classes = compare(run_plan, runtime("trace").trace(run_plan, tell))
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
    return ok


_SCOPE = "tensors only: the ledger's overhead lies outside them and is left out"
_WITHOUT_VLLM = (
    "vllm does not run: traced and priced as if Megatron's own modules sampled, so that what vllm"
    " holds between its uses is in neither number"
)


def _twin_note(run_plan: RunPlan) -> str:
    return (
        f"traced and priced for device cpu, not {run_plan.layout.device}: fused kernels do not run"
        " here; params, grads, main + Adam, teacher, kv cache and payload have one formula on both;"
        " activations, loss tiles and temporaries have the cpu's"
    )


def _decided(compiled: Compiled) -> RunPlan:
    """The run plan, also of a plan that does not fit; raises UserError for any other error."""
    if compiled.run_plan is None or compiled.errors_beside(GK_MEMORY):
        raise UserError(*compiled.diagnostics)
    return compiled.run_plan
