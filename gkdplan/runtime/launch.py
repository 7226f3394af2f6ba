"""One process a rank, through torch's own launcher."""

import contextlib
import logging
import multiprocessing.util
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gkdplan import __version__
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime import worker
from gkdplan.runtime.boards import has_wandb, no_wandb
from gkdplan.runtime.failures import exit_code_of, how_to_go_on, what_failed
from gkdplan.runtime.gpus import too_small
from gkdplan.runtime.host_memory import too_little
from gkdplan.runtime.hosts.hung_ranks import killed_soon
from gkdplan.runtime.interrupts import Interrupted, own_signal_handlers, signals_of_torch
from gkdplan.runtime.kernels import (
    has_transformer_engine,
    no_cpp_compiler,
    no_transformer_engine,
)
from gkdplan.runtime.loss.compiled import has_cpp_compiler
from gkdplan.runtime.result import FINISHED, INTERRUPTED, STOPPED_RESUMABLE, RunResult
from gkdplan.runtime.rollout.servers import not_ready
from gkdplan.runtime.saved import full_disk
from gkdplan.runtime.saved.claim import open_run_directory
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.runtime.stopping import StopRequest
from gkdplan.runtime.teacher.server_checks import check_servers
from gkdplan.runtime.vllm_package import can_see, cannot_see, has_vllm, no_vllm
from gkdplan.vocab import Kernels, LossBackend, Role


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


def start_ranks(
    main: Callable[..., Any],
    num_ranks: int,
    run_id: str,
    *arguments: object,
    stop: StopRequest | None = None,
) -> dict[int, Any]:
    """Run `main(*arguments)` on each rank of this node; what the ranks return, by rank.

    Where `main` heeds a `stop`, a scheduler's signal makes that request and ends nothing.
    Raises torch's ChildFailedError where a rank failed, and Interrupted or SignalException where
    this process was told to stop; no process is left behind.
    """
    set_environment(num_ranks)
    with _torchs_own_files_go(), own_signal_handlers(stop), killed_soon():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            run_id=run_id,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            start_method="spawn",
            signals_to_handle=signals_of_torch(stop),
        )
        results: dict[int, Any] = elastic_launch(config, main)(*arguments)
    return results


@contextlib.contextmanager
def _torchs_own_files_go() -> Iterator[None]:
    """torch's launcher leaves a directory of empty logs, and a file of each rank that was killed,
    where this process has its temporary files: meanwhile that is one that goes. multiprocessing
    keeps its own directory to the end of the process."""
    multiprocessing.util.get_temp_dir()
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as scratch:
        tempfile.tempdir = scratch
        try:
            yield
        finally:
            tempfile.tempdir = before


def set_environment(num_ranks: int) -> None:
    """What the ranks inherit, where the user has not set it: threads, no libraries' chatter, and no
    record of the last 2,000 collectives, which nothing reads and which grows for 200 steps."""
    threads = max(1, (os.cpu_count() or 1) // num_ranks)
    for name, value in {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "TORCH_FR_BUFFER_SIZE": "0",
        "PYTHONWARNINGS": "ignore::UserWarning,ignore::FutureWarning,ignore::DeprecationWarning",
    }.items():
        os.environ.setdefault(name, value)
    for name in logging.root.manager.loggerDict:
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def check_machine(run_plan: RunPlan) -> None:
    """Raises UserError where this executor or this machine cannot run the plan."""
    if found := missing_here(run_plan):
        raise UserError(*found)


def missing_here(run_plan: RunPlan) -> tuple[Diagnostic, ...]:
    """What this executor cannot run, GK591, or else what this machine lacks: GK515, GK525, GK526
    and GK527."""
    return tuple(_not_yet_run(run_plan)) or tuple(_not_here(run_plan))


def check_all_servers(run_plan: RunPlan) -> None:
    """Raises UserError where a server of the plan is not ready."""
    check_servers(run_plan)
    check_samplers(run_plan)


def check_samplers(run_plan: RunPlan) -> None:
    """Raises UserError where a server that samples is not ready: GK540, GK541 and GK542."""
    if run_plan.sampling.refit_bucket_bytes and (found := tuple(not_ready(run_plan))):
        raise UserError(*found)


def _not_yet_run(run_plan: RunPlan) -> Iterator[Diagnostic]:
    """What was planned and what this executor has no code for."""
    layout = run_plan.layout
    if layout.backend == "nccl" and layout.kernels is Kernels.TORCH:
        for role in Role:
            degree = getattr(layout, role).context
            if degree > 1:
                yield planned_only(f"{role}.parallel.context", degree)


def planned_only(path: str, value: object) -> Diagnostic:
    """GK591."""
    return error(
        "GK591",
        f"`{path}` ({value}) is planned, but not yet run in gkdplan {__version__}",
        path,
        help=("take it out of the plan, or only plan with it: `gkdplan plan`",),
    )


def _not_here(run_plan: RunPlan) -> Iterator[Diagnostic]:
    """What the plan wants of this machine and does not find."""
    layout = run_plan.layout
    yield from too_little(run_plan)
    sampling, sees = run_plan.sampling, run_plan.models.student.shape.vision is not None
    asks_with_images = sees and sampling.refit_bucket_bytes > 0
    if (sampling.vllm is not None or asks_with_images) and not has_vllm():
        yield no_vllm()
    elif sampling.vllm is not None and sees and not can_see():
        yield cannot_see()
    if "wandb" in run_plan.training.loggers and not has_wandb():
        yield no_wandb()
    if layout.backend != "nccl":
        if run_plan.objective.loss_backend is LossBackend.COMPILED and not has_cpp_compiler():
            yield no_cpp_compiler()
        return
    num_wanted, num_found = layout.devices_per_node, torch.cuda.device_count()
    if num_found < num_wanted:
        yield error(
            "GK515",
            f"the plan wants {num_wanted} x {layout.device}, this machine has {num_found} GPUs",
            "cluster.devices_per_node",
            help=(
                "run it on the machine it was planned for; `gkdplan run --dry-run` "
                "shows its memory here",
            ),
        )
    yield from too_small(run_plan)
    if layout.kernels is Kernels.TRANSFORMER_ENGINE and not has_transformer_engine():
        yield no_transformer_engine()


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
