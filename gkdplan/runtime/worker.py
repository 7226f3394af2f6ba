"""The entry point of one rank."""

import contextlib
import json
import os
import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import decode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.hosts.roll_call import RollCall, is_of_another_rank
from gkdplan.runtime.interrupts import end_with_the_launcher
from gkdplan.runtime.phases import Position
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.saved.full_disk import disk_errors
from gkdplan.runtime.stopping import StopRequest, take_signals_of_a_rank

LAST_WORDS_S = 1.0
"""A rank that raised stays this long, so that one that was killed is seen to end first: its peers
raise only because it is gone."""


def main(
    lock: str, start_step: int, failures: str, terminal: bool, stop_file: str
) -> dict[str, Any]:
    """Run the plan in `lock` from the step after `start_step`, or up to the step in which
    `stop_file` asks it to stop; rank 0's summary is the result.

    A failure is written to `failures`/rank_R.json before it ends the process, so that the
    launcher can name the rank, the phase and the reason. Megatron is imported here, in the rank,
    so that the launcher does not wait for it.
    """
    end_with_the_launcher()
    stop = StopRequest(Path(stop_file))
    take_signals_of_a_rank(stop)
    run_plan = decode(lock)
    position = Position(start_step, "start", position_file(failures, os.environ["RANK"]))
    with last_words(failures, position) as rank:
        from gkdplan.runtime.megatron import platform

        platform.prepare(run_plan.layout.backend)
        timeout_s = run_plan.layout.rendezvous.collective_timeout_s
        dist.init_process_group(run_plan.layout.backend, timeout=timedelta(seconds=timeout_s))
        with called_to_account(rank, position, timeout_s):
            summary = train(run_plan, start_step, position, stop, terminal=terminal)
        dist.destroy_process_group()
        return summary


def train(
    run_plan: RunPlan, start_step: int, position: Position, stop: StopRequest, *, terminal: bool
) -> dict[str, Any]:
    """Everything between the process group's start and its end; the summary, on rank 0."""
    from gkdplan.runtime.executor import Executor
    from gkdplan.runtime.opening import open_session

    is_first = dist.get_rank() == 0
    with (
        disk_errors(Path(run_plan.training.output), "run.output"),
        Progress(run_plan, start_step, shown=is_first, terminal=terminal) as progress,
    ):
        session = open_session(run_plan, start_step, position, progress)
        return Executor(session).run(start_step, stop)


@contextlib.contextmanager
def called_to_account(rank: int, position: Position, timeout_s: float) -> Iterator[None]:
    """Raises UserError (GK537) where what ranks do together fails inside: with those that did not
    take part, as all ranks of this host that are still there see them."""
    hosts = [socket.gethostname()] * dist.get_world_size()
    store = dist.distributed_c10d._get_default_store()
    with RollCall(store, rank, hosts, position, timeout_s) as roll_call:
        try:
            yield
        except Exception as failure:
            if not is_of_another_rank(failure):
                raise
            raise UserError(*roll_call.verdict(failure)) from failure


def position_file(failures: str, rank: int | str) -> Path:
    """Where a rank keeps its position, for the launcher."""
    return Path(failures) / f"rank_{rank}.position"


@contextlib.contextmanager
def last_words(failures: str, position: Position) -> Iterator[int]:
    """Yields this rank's number; what fails inside is written to `failures`/rank_R.json, for the
    launcher to read."""
    rank = int(os.environ["RANK"])
    try:
        yield rank
    except BaseException as failure:
        _write_failure(Path(failures) / f"rank_{rank}.json", rank, position, failure)
        if not isinstance(failure, UserError):
            time.sleep(LAST_WORDS_S)
        raise


def _write_failure(path: Path, rank: int, position: Position, failure: BaseException) -> None:
    diagnostics = failure.diagnostics if isinstance(failure, UserError) else ()
    report = {
        "rank": rank,
        "step": position.step,
        "phase": position.phase,
        "time": time.time(),
        "traceback": "".join(traceback.format_exception(failure)),
        "diagnostics": [asdict(found) for found in diagnostics],
    }
    with contextlib.suppress(OSError):
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(report), encoding="utf-8")
        partial.rename(path)
