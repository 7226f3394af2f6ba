"""A run on this node, from its first look at the machine to how it ended."""

import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime import worker
from gkdplan.runtime.failures import exit_code_of, how_to_go_on, what_failed
from gkdplan.runtime.interrupts import Interrupted
from gkdplan.runtime.machine.lacking import check_all_servers, check_machine
from gkdplan.runtime.ranks import start_ranks
from gkdplan.runtime.result import FINISHED, INTERRUPTED, STOPPED_RESUMABLE, RunResult
from gkdplan.runtime.saved import full_disk
from gkdplan.runtime.saved.claim import open_run_directory
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.runtime.stopping import StopRequest


def run(run_plan: RunPlan, resume: str = "auto") -> RunResult:
    """Start the ranks of this node, wait for them and say how the run ended.

    Raises UserError before any process starts where the plan cannot run here: the run directory
    belongs to another run or is in use, the plan has what is not yet run, or the device is not
    there. A scheduler's signal lets the ranks finish their step and save; Ctrl-C stops them and
    leaves the last checkpoint to go on from.
    """
    check_machine(run_plan)
    check_all_servers(run_plan)
    with (
        open_run_directory(run_plan, resume) as (directory, start_step, skipped),
        tempfile.TemporaryDirectory(prefix="gkdplan-") as scratch,
    ):
        full_disk.check_room(run_plan, directory, start_step)
        stop = StopRequest(Path(scratch) / "stop")
        try:
            results = _launch(run_plan, start_step, Path(scratch), stop)
        except ChildFailedError as failure:
            return _stopped(directory, failure, Path(scratch), skipped)
        except Interrupted:
            return stopped_by(directory, signal.SIGINT.name, INTERRUPTED, skipped)
        except SignalException as signalled:
            return stopped_by(directory, signalled.sigval.name, STOPPED_RESUMABLE, skipped)
        if stop.is_made and directory.saved_steps()[-1] < run_plan.training.num_steps:
            return stopped_by(directory, stop.signal_name, STOPPED_RESUMABLE, skipped)
    return RunResult(
        exit_code=FINISHED,
        run_dir=directory.path,
        student_dir=directory.checkpoint(run_plan.training.num_steps) / "student",
        summary=results[0],
        diagnostics=skipped,
    )


def _launch(
    run_plan: RunPlan, start_step: int, failures: Path, stop: StopRequest
) -> dict[int, Any]:
    return start_ranks(
        worker.main,
        run_plan.layout.devices_per_node,
        run_plan.fingerprint[:12],
        encode(run_plan),
        start_step,
        str(failures),
        sys.stderr.isatty(),
        str(stop.path),
        stop=stop,
    )


def _stopped(
    directory: RunDirectory,
    failure: ChildFailedError,
    failures: Path,
    skipped: tuple[Diagnostic, ...],
) -> RunResult:
    found = what_failed(failure, failures, how_to_go_on(directory))
    return RunResult(exit_code_of(found), directory.path, None, {}, (*skipped, *found))


def stopped_by(
    directory: RunDirectory, name: str, exit_code: int, skipped: tuple[Diagnostic, ...]
) -> RunResult:
    """Ctrl-C has the exit code that shells give it; a scheduler's signal may be resumed."""
    found = error("GK533", f"the run was stopped by {name}", help=how_to_go_on(directory))
    return RunResult(exit_code, directory.path, None, {}, (*skipped, found))
