"""One process a rank, through torch's own launcher."""

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime import worker
from gkdplan.runtime.result import FINISHED, STOPPED_RESUMABLE, RunResult
from gkdplan.runtime.run_directory import RunDirectory, open_run_directory


def run(run_plan: RunPlan, resume: str = "auto") -> RunResult:
    """Start the ranks of this node, wait for them and say how the run ended.

    Raises UserError before any process starts where the plan cannot run here: the run directory
    belongs to another run, the plan wants more than one node, or the device is not there.
    """
    _check_machine(run_plan)
    directory, start_step = open_run_directory(run_plan, resume)
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as scratch:
        try:
            results = _launch(run_plan, start_step, Path(scratch))
        except ChildFailedError as failure:
            return _stopped(directory, failure, Path(scratch))
    return RunResult(
        exit_code=FINISHED,
        run_dir=directory.path,
        student_dir=directory.checkpoint(run_plan.training.num_steps) / "student",
        summary=results[0],
    )


def _launch(run_plan: RunPlan, start_step: int, failures: Path) -> dict[int, Any]:
    num_ranks = run_plan.layout.devices_per_node
    _set_environment(num_ranks)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=run_plan.fingerprint[:12],
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="spawn",
    )
    arguments = (encode(run_plan), start_step, str(failures), sys.stderr.isatty())
    results: dict[int, Any] = elastic_launch(config, worker.main)(*arguments)
    return results


def _set_environment(num_ranks: int) -> None:
    """What the ranks inherit, where the user has not set it: threads, and no libraries' chatter."""
    threads = max(1, (os.cpu_count() or 1) // num_ranks)
    for name, value in {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "PYTHONWARNINGS": "ignore::UserWarning,ignore::FutureWarning,ignore::DeprecationWarning",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)


def _check_machine(run_plan: RunPlan) -> None:
    layout = run_plan.layout
    if layout.num_nodes > 1:
        raise UserError(
            error(
                "GK590",
                f"`cluster.num_nodes` = {layout.num_nodes}: running on more than one node is not "
                "yet available in gkdplan 0.1.0",
                "cluster.num_nodes",
                help=("set `cluster.num_nodes` to 1, or only plan it with `gkdplan plan`",),
            )
        )
    if layout.backend == "nccl":
        _check_gpus(layout.devices_per_node, layout.device)


def _check_gpus(num_wanted: int, device: str) -> None:
    import torch

    num_found = torch.cuda.device_count()
    if num_found < num_wanted:
        raise UserError(
            error(
                "GK515",
                f"the plan wants {num_wanted} x {device}, this machine has {num_found} GPUs",
                "cluster.devices_per_node",
                help=(
                    "run it on the machine it was planned for; `gkdplan run --dry-run` "
                    "shows its memory here",
                ),
            )
        )


def _stopped(directory: RunDirectory, failure: ChildFailedError, failures: Path) -> RunResult:
    """Read what the failed ranks left behind; a rank that was killed leaves only its signal."""
    reports = [json.loads(path.read_text()) for path in sorted(failures.glob("rank_*.json"))]
    user_errors = [found for report in reports for found in report["diagnostics"]]
    if user_errors:
        diagnostics = tuple(Diagnostic(**found) for found in _unique(user_errors))
        return RunResult(1, directory.path, None, {}, diagnostics)
    if reports:
        first = min(reports, key=lambda report: report["time"])
        found = error(
            "GK530",
            f"rank {first['rank']} raised in the {first['phase']} phase of step {first['step']}",
            notes=tuple(first["traceback"].rstrip().splitlines()),
            help=_how_to_go_on(directory),
        )
    else:
        rank, first_failure = failure.get_first_failure()
        found = error(
            "GK531",
            f"rank {rank} ended with {_ending(first_failure.exitcode)}",
            notes=("a killed process leaves no traceback: look for the out-of-memory killer",),
            help=_how_to_go_on(directory),
        )
    return RunResult(STOPPED_RESUMABLE, directory.path, None, {}, (found,))


def _how_to_go_on(directory: RunDirectory) -> tuple[str, ...]:
    steps = directory.saved_steps()
    if steps:
        return (f"`--resume auto` goes on after step {steps[-1]}",)
    return ("no checkpoint was saved yet: `--resume auto` starts at step 1 again",)


def _ending(exit_code: int) -> str:
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"


def _unique(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [found for i, found in enumerate(findings) if found not in findings[:i]]
