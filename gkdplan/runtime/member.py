"""One rank of a run whose ranks torchrun or Slurm started, on one host or several.

Rank 0 owns the run directory and decides for all of them. Whichever fails first tells the others
why; each then ends by itself, as no launcher of gkdplan's is there to end it.
"""

import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

from gkdplan import __version__
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.diff import compare
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime import full_disk, launch
from gkdplan.runtime.claim import open_run_directory
from gkdplan.runtime.failures import exit_code_of, raised
from gkdplan.runtime.meeting import (
    ANSWER_S,
    Hello,
    hear_all,
    hear_hellos,
    heard,
    is_said,
    not_reached,
    of_attempt,
    open_store,
    refusals,
    say,
    say_hello,
)
from gkdplan.runtime.network import interface_towards
from gkdplan.runtime.node_log import NodeLog
from gkdplan.runtime.phases import Position
from gkdplan.runtime.placement import Placement
from gkdplan.runtime.result import FINISHED, STOPPED_RESUMABLE, RunResult
from gkdplan.runtime.roll_call import RollCall, Verdict, is_of_another_rank
from gkdplan.runtime.run_directory import RunDirectory
from gkdplan.runtime.stopping import SIGNALS, StopRequest
from gkdplan.runtime.worker import train

PACKAGES = ("torch", "megatron-core", "transformers", "vllm")
SEEN = ".seen_by_all_hosts"
"""A file in the run directory that every host has to see."""
SHOWN_WITHIN_S = 10.0
"""What a file system of the network may take to show it."""
ATTEMPT = "attempt"


@dataclass(frozen=True, slots=True)
class Start:
    """What rank 0 decided: the step after which the run goes on, the hosts of the ranks, and what
    it found in the run directory."""

    step: int
    hosts: Sequence[str]
    skipped: tuple[Diagnostic, ...]


def run_as_rank(run_plan: RunPlan, placement: Placement, resume: str) -> RunResult:
    """Meet the other ranks, run the plan and say how it ended; what rank 0 says goes for all, so
    that the others' results have no findings but what rank 0 cannot know.

    Raises UserError where the ranks do not meet or would not run the same, before a model is built.
    The process should end with `os._exit` afterwards: groups may hold hosts that are gone.
    """
    os.environ.update(placement.environment)
    _choose_interface(run_plan, placement)
    launch.set_environment(run_plan.layout.devices_per_node)
    directory = RunDirectory(Path(run_plan.training.output))
    resume = "auto" if placement.num_restarts else resume
    with (
        _stop_request() as stop,
        _met(run_plan, placement, directory, resume) as (store, start),
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


@contextmanager
def _met(
    run_plan: RunPlan, placement: Placement, directory: RunDirectory, resume: str
) -> Iterator[tuple[Any, Start]]:
    """The store, and what rank 0 decided; rank 0 holds the run directory meanwhile."""
    process = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    shared = open_store(placement, run_plan.layout.rendezvous.join_timeout_s)
    if placement.rank != 0:
        yield _follow(shared, run_plan, placement, directory, process)
        return
    store = of_attempt(shared, process)
    say(store, "plan", encode(run_plan))
    say(store, "seals", _seals(run_plan))
    say(shared, ATTEMPT, process)
    say_hello(store, _hello(store, run_plan, placement, process))
    hellos: list[Hello] = []
    try:
        with _decided(store, run_plan, directory, resume, hellos) as start:
            say(store, "start", {**asdict(start), "for": _processes(hellos)})
            yield store, start
    except UserError as refusal:
        say(store, "start", {"refused": str(refusal), "for": _processes(hellos)})
        hear_all(store, "refused", range(1, len(hellos)), ANSWER_S / 10)
        raise


@contextmanager
def _decided(
    store: Any, run_plan: RunPlan, directory: RunDirectory, resume: str, hellos: list[Hello]
) -> Iterator[Start]:
    """Fills `hellos` with those of all ranks."""
    layout = run_plan.layout
    limit_s = layout.rendezvous.join_timeout_s
    hellos += hear_hellos(store, layout.world_size, layout.devices_per_node, limit_s)
    if found := refusals(hellos):
        raise UserError(*found)
    launch.check_all_servers(run_plan)
    with open_run_directory(run_plan, resume) as (directory, start_step, skipped):
        full_disk.check_room(run_plan, directory, start_step)
        hosts = [hello.host for hello in hellos]
        _be_seen_by_all(store, layout.devices_per_node, directory, hosts)
        yield Start(start_step, hosts, skipped)


def _be_seen_by_all(
    store: Any, per_node: int, directory: RunDirectory, hosts: Sequence[str]
) -> None:
    """Raises UserError (GK584) where a host does not see what this one writes."""
    mark, token = directory.path / SEEN, str(time.time_ns())
    mark.write_text(token, encoding="utf-8")
    say(store, "seen", token)
    firsts = range(per_node, len(hosts), per_node)
    seen = hear_all(store, "sees", firsts, SHOWN_WITHIN_S)
    mark.unlink()
    blind = [hosts[rank] for rank in firsts if rank not in seen]
    if blind:
        raise UserError(
            error(
                "GK584",
                f"{', '.join(blind[:4])} {'does' if len(blind) == 1 else 'do'} not see the run "
                f"directory `{directory.path}` of {hosts[0]}",
                "run.output",
                label="each host has its own",
                help=("set `run.output` to a path on a file system that all hosts share",),
            )
        )


def _follow(
    shared: Any, run_plan: RunPlan, placement: Placement, directory: RunDirectory, process: str
) -> tuple[Any, Start]:
    """Rank 0's decision, of the attempt that is its newest: torchrun's store may hold older ones.

    Raises UserError: without findings where rank 0 refuses, which says why itself; GK582 where it
    says nothing in time.
    """
    limit_s = run_plan.layout.rendezvous.join_timeout_s + ANSWER_S
    deadline, attempt, store, is_seen = time.monotonic() + limit_s, None, None, False
    try:
        while time.monotonic() < deadline:
            newest = heard(shared, ATTEMPT) if is_said(shared, ATTEMPT) else None
            if newest is not None and newest != attempt:
                attempt, store, is_seen = newest, of_attempt(shared, newest), False
                say_hello(store, _hello(store, run_plan, placement, process))
            if store is not None and is_said(store, "start"):
                told = heard(store, "start")
                if process in told["for"]:
                    return store, _started(store, told, placement)
            if store is not None and not is_seen and placement.local_rank == 0:
                is_seen = _sees(store, directory.path / SEEN)
                if is_seen:
                    say(store, f"sees/{placement.rank}", True)
            time.sleep(0.02)
    except RuntimeError as failure:
        raise UserError(not_reached(placement, limit_s, failure)) from failure
    raise UserError(not_reached(placement, limit_s, TimeoutError("rank 0 decided nothing")))


def _started(store: Any, told: dict[str, Any], placement: Placement) -> Start:
    if "refused" in told:
        say(store, f"refused/{placement.rank}", True)
        raise UserError
    return Start(told["step"], told["hosts"], ())


def _sees(store: Any, mark: Path) -> bool:
    try:
        return is_said(store, "seen") and mark.read_text(encoding="utf-8") == heard(store, "seen")
    except OSError:
        return False


def _hello(store: Any, run_plan: RunPlan, placement: Placement, process: str) -> Hello:
    differences: tuple[str, ...] = ()
    if tuple(heard(store, "seals")) != _seals(run_plan):
        first = decode(heard(store, "plan"))
        differences = tuple(
            f"{change.path}: {change.old} there, {change.new} here"
            for change in compare(first, run_plan)
            if not isinstance(change.old, dict | list)
        )[:8]
    lacks = launch.missing_here(run_plan) if placement.local_rank == 0 else ()
    return Hello(
        placement.rank,
        process,
        socket.gethostname(),
        _seals(run_plan),
        _versions(),
        tuple(asdict(found) for found in lacks),
        differences,
    )


def _processes(hellos: Sequence[Hello]) -> list[str]:
    return [hello.process for hello in hellos]


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
        stopped = launch.stopped_by(directory, name, STOPPED_RESUMABLE, start.skipped)
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


def _seals(run_plan: RunPlan) -> tuple[str, str]:
    return (run_plan.fingerprint, run_plan.checksum)


def _versions() -> dict[str, str]:
    found = {"gkdplan": __version__, "python": ".".join(map(str, sys.version_info[:2]))}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
