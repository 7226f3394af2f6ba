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
    ask,
    hear_all,
    hear_hellos,
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
    limit_s = run_plan.layout.rendezvous.join_timeout_s
    store = open_store(placement, limit_s)
    if placement.rank != 0:
        _introduce(store, run_plan, placement, limit_s)
        yield store, _listen_to_rank_0(store, directory, placement, limit_s)
        return
    say(store, "plan", encode(run_plan))
    say(store, "seals", _seals(run_plan))
    _introduce(store, run_plan, placement, limit_s)
    try:
        with _decided(store, run_plan, directory, resume) as start:
            say(store, "start", asdict(start))
            yield store, start
    except UserError as refusal:
        say(store, "refused", [asdict(found) for found in refusal.diagnostics])
        say(store, "start", None)
        hear_all(store, "refused", range(1, placement.world_size), ANSWER_S / 10)
        raise


@contextmanager
def _decided(
    store: Any, run_plan: RunPlan, directory: RunDirectory, resume: str
) -> Iterator[Start]:
    layout = run_plan.layout
    limit_s = layout.rendezvous.join_timeout_s
    hellos = hear_hellos(store, layout.world_size, layout.devices_per_node, limit_s)
    if found := refusals(hellos):
        raise UserError(*found)
    launch.check_all_servers(run_plan)
    with open_run_directory(run_plan, resume) as (directory, start_step, skipped):
        full_disk.check_room(run_plan, directory, start_step)
        _be_seen_by_all(store, run_plan, directory, [hello.host for hello in hellos])
        yield Start(start_step, [hello.host for hello in hellos], skipped)


def _be_seen_by_all(
    store: Any, run_plan: RunPlan, directory: RunDirectory, hosts: Sequence[str]
) -> None:
    """Raises UserError (GK584) where a host does not see what this one writes."""
    mark, token = directory.path / SEEN, f"{os.getpid()} {time.time_ns()}"
    mark.write_text(token, encoding="utf-8")
    say(store, "seen", token)
    firsts = range(0, len(hosts), run_plan.layout.devices_per_node)
    seen = hear_all(store, "sees", firsts[1:], ANSWER_S)
    mark.unlink()
    blind = [hosts[rank] for rank in firsts[1:] if not seen.get(rank)]
    if blind:
        raise UserError(
            error(
                "GK584",
                f"{', '.join(blind[:4])} does not see the run directory `{directory.path}` "
                f"of {hosts[0]}",
                "run.output",
                label="each host has its own",
                help=("set `run.output` to a path on a file system that all hosts share",),
            )
        )


def _introduce(store: Any, run_plan: RunPlan, placement: Placement, limit_s: float) -> None:
    seals = ask(store, "seals", placement, limit_s)
    differences: tuple[str, ...] = ()
    if tuple(seals) != _seals(run_plan):
        first = decode(ask(store, "plan", placement, limit_s))
        differences = tuple(
            f"{change.path}: {change.old} there, {change.new} here"
            for change in compare(first, run_plan)
            if not isinstance(change.old, dict | list)
        )[:8]
    lacks = launch.missing_here(run_plan) if placement.local_rank == 0 else ()
    hello = Hello(
        placement.rank,
        socket.gethostname(),
        _seals(run_plan),
        _versions(),
        tuple(asdict(found) for found in lacks),
        differences,
    )
    say_hello(store, hello)


def _listen_to_rank_0(
    store: Any, directory: RunDirectory, placement: Placement, limit_s: float
) -> Start:
    """Raises UserError without findings where rank 0 refuses, which says why itself."""
    if placement.local_rank == 0:
        told = _first_of(store, ("seen", "start"), placement, limit_s)
        if told == "seen":
            token = ask(store, "seen", placement, limit_s)
            say(store, f"sees/{placement.rank}", _sees(directory.path / SEEN, token))
    told = ask(store, "start", placement, limit_s + 2 * ANSWER_S)
    if told is None:
        say(store, f"refused/{placement.rank}", True)
        raise UserError
    return Start(told["step"], told["hosts"], ())


def _first_of(store: Any, keys: Sequence[str], placement: Placement, limit_s: float) -> str:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        for key in keys:
            if store.check([key]):
                return key
        time.sleep(0.02)
    ask(store, keys[0], placement, 0.01)  # raises
    raise AssertionError


def _sees(mark: Path, token: str) -> bool:
    """A file system of the network may show it late."""
    deadline = time.monotonic() + ANSWER_S / 3
    while time.monotonic() < deadline:
        try:
            if mark.read_text(encoding="utf-8") == token:
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


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
