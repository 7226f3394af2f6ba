"""One rank of a run whose ranks torchrun or Slurm started, on one host or several.

Rank 0 owns the run directory and decides for all of them. Whichever fails first tells the others
why; each then ends by itself, as no launcher of gkdplan's is there to end it.
"""

import os
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

from gkdplan.diagnostics import Diagnostic, UserError
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.failures import exit_code_of, raised
from gkdplan.runtime.hosts.joining import Start, met
from gkdplan.runtime.hosts.meeting import (
    ANSWER_S,
    hear_all,
    say,
)
from gkdplan.runtime.hosts.network import interface_towards
from gkdplan.runtime.hosts.node_log import NodeLog
from gkdplan.runtime.hosts.placement import Placement
from gkdplan.runtime.hosts.roll_call import RollCall, Verdict, is_of_another_rank
from gkdplan.runtime.launch import stopped_by
from gkdplan.runtime.phases import Position
from gkdplan.runtime.ranks import set_environment
from gkdplan.runtime.result import FINISHED, STOPPED_RESUMABLE, RunResult
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.runtime.stopping import SIGNALS, StopRequest
from gkdplan.runtime.worker import train


def run_as_rank(run_plan: RunPlan, placement: Placement, resume: str) -> RunResult:
    """Meet the other ranks, run the plan and say how it ended; what rank 0 says goes for all, so
    that the others' results have no findings but what rank 0 cannot know.

    Raises UserError where the ranks do not meet or would not run the same, before a model is built.
    The process should end with `os._exit` afterwards: groups may hold hosts that are gone.
    """
    os.environ.update(placement.environment)
    _choose_interface(run_plan, placement)
    set_environment(run_plan.layout.devices_per_node)
    directory = RunDirectory(Path(run_plan.training.output))
    resume = "auto" if placement.num_restarts else resume
    with (
        _stop_request() as stop,
        met(run_plan, placement, directory, resume) as (store, start),
        NodeLog(directory.path, placement, run_plan.layout.devices_per_node) as log,
    ):
        log.write(f"pid {os.getpid()} on {socket.gethostname()} goes on after step {start.step}")
        try:
            summary = _train(run_plan, placement, store, start, stop, log)
        except UserError as refusal:
            log.write_findings(refusal.diagnostics)
            exit_code = exit_code_of(refusal.diagnostics)
            return RunResult(exit_code, directory.path, None, {}, _own(refusal, start))
        say(store, f"done/{placement.rank}", True)
        if placement.rank == 0:
            hear_all(store, "done", range(placement.world_size), ANSWER_S)
        return _ended(run_plan, directory, placement, start, stop, summary, log)


def _train(
    run_plan: RunPlan,
    placement: Placement,
    store: Any,
    start: Start,
    stop: StopRequest,
    log: NodeLog,
) -> dict[str, Any]:
    """The summary; raises _ToldError with what ends the run."""
    from gkdplan.runtime.megatron import platform

    layout, rank = run_plan.layout, placement.rank
    timeout_s = layout.rendezvous.collective_timeout_s
    position = Position(start.step, "start")
    roll_call = RollCall(
        dist.PrefixStore("roll_call", store), rank, start.hosts, position, timeout_s, log.end
    )
    with roll_call:
        try:
            platform.prepare(layout.backend)
            dist.init_process_group(
                layout.backend,
                store=dist.PrefixStore("world", store),
                rank=rank,
                world_size=placement.world_size,
                timeout=timedelta(seconds=timeout_s),
            )
            return train(run_plan, start.step, position, stop, terminal=sys.stderr.isatty())
        except Exception as failure:
            own = () if is_of_another_rank(failure) else _of_this_rank(failure, rank, position)
            verdict = roll_call.verdict(failure, own)
            is_cut_off = not roll_call.is_reached and placement.local_rank == 0
            raise _ToldError(verdict, is_own=roll_call.is_judge or is_cut_off) from failure


class _ToldError(UserError):
    """What ends the run; `is_own` where this rank is the one to say so."""

    def __init__(self, verdict: Verdict, *, is_own: bool) -> None:
        super().__init__(*verdict)
        self.is_own = is_own


def _own(refusal: UserError, start: Start) -> tuple[Diagnostic, ...]:
    is_told_by_another = isinstance(refusal, _ToldError) and not refusal.is_own
    return () if is_told_by_another else (*start.skipped, *refusal.diagnostics)


def _of_this_rank(failure: Exception, rank: int, position: Position) -> Verdict:
    if isinstance(failure, UserError):
        return failure.diagnostics
    trace = "".join(traceback.format_exception(failure))
    return (raised(rank, position, trace, ("`--resume auto` goes on",)),)


def _ended(
    run_plan: RunPlan,
    directory: RunDirectory,
    placement: Placement,
    start: Start,
    stop: StopRequest,
    summary: dict[str, Any],
    log: NodeLog,
) -> RunResult:
    num_steps = run_plan.training.num_steps
    is_first = placement.rank == 0
    if directory.saved_steps()[-1] < num_steps:
        name = stop.signal_name if stop.is_made else "a signal to another rank"
        log.write(f"stopped by {name}")
        stopped = stopped_by(directory, name, STOPPED_RESUMABLE, start.skipped)
        return stopped if is_first else RunResult(STOPPED_RESUMABLE, directory.path, None, {})
    log.write("finished")
    student = directory.checkpoint(num_steps) / "student"
    findings = start.skipped if is_first else ()
    return RunResult(FINISHED, directory.path, student, summary, findings)


@contextmanager
def _stop_request() -> Iterator[StopRequest]:
    """A scheduler's first signal to this process asks the run to stop, a second one ends it."""
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as scratch:
        stop = StopRequest(Path(scratch) / "stop")

        def ask_to_stop(number: int, frame: FrameType | None) -> None:
            if stop.is_made:
                os._exit(STOPPED_RESUMABLE)
            stop.ask(number)

        for number in SIGNALS:
            signal.signal(number, ask_to_stop)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        yield stop


def _choose_interface(run_plan: RunPlan, placement: Placement) -> None:
    if run_plan.layout.backend == "gloo" and "GLOO_SOCKET_IFNAME" not in os.environ:
        name = interface_towards(placement.master_host, placement.master_port)
        if name is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = name
