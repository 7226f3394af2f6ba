"""`gkdplan run`: the outline first, then exactly what it says."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gkdplan.cli.arguments import AsJson, PlanPath, Quiet
from gkdplan.cli.bugs import show_bug
from gkdplan.cli.compiling import DEFAULT_PLAN, Compiled, blamed, compile_file
from gkdplan.cli.files import read_lock, write_whole
from gkdplan.cli.findings import show_findings, show_findings_json
from gkdplan.cli.models import with_models_at_hand
from gkdplan.cli.runtime import runtime
from gkdplan.cli.terminal import show, show_json, width
from gkdplan.diagnostics import Diagnostic, Severity, UserError, error
from gkdplan.quiet import is_quiet
from gkdplan.report.changes import described, gravest_first
from gkdplan.report.diagnostics import check_json
from gkdplan.report.ending import ending
from gkdplan.report.outline import outline
from gkdplan.report.page import run_page
from gkdplan.report.run_record import DIAGNOSTICS, diagnostic_line, read_run
from gkdplan.runplan.codec import to_record
from gkdplan.runplan.diff import compare
from gkdplan.runplan.model import RunPlan

if TYPE_CHECKING:
    from gkdplan.runtime.hosts.placement import Placement
    from gkdplan.runtime.result import RunResult


def run(
    path: PlanPath = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, its memory included, and stop.")
    ] = False,
    locked: Annotated[
        str | None, typer.Option(metavar="LOCK", help="Refuse to run anything but this lock.")
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|DIR",
            help="Go on from the newest checkpoint, never, or from DIR, with later ones renamed.",
        ),
    ] = "auto",
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Compile a plan, show its outline and its memory, and run it."""
    with _said_once_a_host():
        compiled = compile_file(path)
        if not dry_run:
            with compiled.placing():
                compiled = with_models_at_hand(compiled, lambda: compile_file(path))
        run_plan = compiled.require()
        if locked:
            _refuse_if_stale(path or DEFAULT_PLAN, locked, run_plan)
        with compiled.placing():
            placement = None if dry_run else _placement(run_plan)
    if placement is not None:
        _run_as_rank(compiled, placement, resume, json)
    if not json:
        show_findings(compiled.diagnostics, sys.stderr)
        if dry_run or not is_quiet():
            show(outline(run_plan, width()))
        sys.stdout.flush()
    if dry_run:
        if json:
            show_json(_answer(compiled, None))
        return
    with blamed(run_plan), compiled.placing():
        result = runtime("launch").run(run_plan, resume)
    result = replace(result, diagnostics=compiled.placed(result.diagnostics))
    _show_result(compiled, result, json)
    raise typer.Exit(result.exit_code)


def _placement(run_plan: RunPlan) -> "Placement | None":
    found: Placement | None = runtime("hosts.placement").placement_of(os.environ, run_plan.layout)
    return found


def _run_as_rank(compiled: Compiled, placement: "Placement", resume: str, json: bool) -> NoReturn:
    """One of many processes, which torchrun or Slurm started: what goes for all is said by rank 0,
    and every process ends at once, whatever its groups still wait for."""
    run_plan, is_first = compiled.require(), placement.rank == 0
    if is_first and not json:
        show_findings(compiled.diagnostics, sys.stderr)
        if not is_quiet():
            show(outline(run_plan, width()))
        sys.stdout.flush()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    warnings.simplefilter("ignore")
    exit_code = 1
    try:
        with blamed(run_plan), compiled.placing():
            result = runtime("hosts.member").run_as_rank(run_plan, placement, resume)
        result = replace(result, diagnostics=compiled.placed(result.diagnostics))
        if is_first:
            _show_result(compiled, result, json)
        else:
            show_findings(result.diagnostics, sys.stderr)
        exit_code = result.exit_code
    except UserError as refusal:
        if json and is_first:
            show_findings_json(refusal.diagnostics)
        else:
            show_findings(refusal.diagnostics, sys.stderr)
    except Exception as bug:
        show_bug(bug)
        exit_code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


@contextmanager
def _said_once_a_host() -> Iterator[None]:
    """What is wrong with a plan, all ranks of a host see alike."""
    try:
        yield
    except UserError:
        if runtime("hosts.placement").speaks(os.environ, "LOCAL_RANK"):
            raise
        raise typer.Exit(1) from None


def _refuse_if_stale(path: str, locked: str, run_plan: RunPlan) -> None:
    lock = read_lock(Path(locked))
    if lock.fingerprint != run_plan.fingerprint:
        changes = gravest_first(compare(lock, run_plan))
        raise UserError(
            error(
                "GK501",
                f"`{locked}` is stale: the plan decides otherwise now",
                notes=tuple(f"{change.label}: {described(change)}" for change in changes),
                help=(f"accept the changes with `gkdplan plan {path} -o {locked}`",),
            )
        )


def _show_result(compiled: Compiled, result: "RunResult", json: bool) -> None:
    """The page, then the ending; a run that stopped has a page of as far as it came."""
    page = result.run_dir / "report.html"
    found = (*compiled.diagnostics, *result.diagnostics)
    unwritten = _written(page, "".join(map(diagnostic_line, found)))
    result = replace(result, diagnostics=(*result.diagnostics, *unwritten))
    if json:
        show_json(_answer(compiled, result))
    else:
        show_findings(result.diagnostics, sys.stderr)
        show(f"\n{ending(result.summary, _places(result, page), width())}")


def _places(result: "RunResult", page: Path) -> dict[str, Path]:
    """What there is: a run that stopped before its first step has no metrics."""
    places = {"metrics": result.run_dir / "metrics.jsonl", "report": page}
    if result.student_dir:
        places = {"student": result.student_dir, **places}
    return {label: path for label, path in places.items() if path.exists()}


def _written(page: Path, diagnostics: str) -> tuple[Diagnostic, ...]:
    """What stands in the way of the page; the run is as it is without one."""
    try:
        write_whole(page.with_name(DIAGNOSTICS), diagnostics)
        write_whole(page, run_page(read_run(page.parent)))
    except UserError as refusal:
        return tuple(replace(found, severity=Severity.WARNING) for found in refusal.diagnostics)
    return ()


def _answer(compiled: Compiled, result: "RunResult | None") -> dict[str, Any]:
    run_plan = compiled.require()
    findings = (*compiled.diagnostics, *(result.diagnostics if result else ()))
    return {
        **check_json(findings, run_plan.ledger),
        "run_plan": to_record(run_plan),
        "result": result
        and {
            "exit_code": result.exit_code,
            "run_dir": str(result.run_dir),
            "student_dir": str(result.student_dir) if result.student_dir else None,
            **result.summary,
        },
    }
