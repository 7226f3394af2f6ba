"""The beginning of a run whose ranks others started: rank 0 hears all, decides, and is heard."""

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gkdplan import __version__
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.diff import compare
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.hosts.meeting import (
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
from gkdplan.runtime.hosts.placement import Placement
from gkdplan.runtime.machine.lacking import check_all_servers, missing_here
from gkdplan.runtime.saved import full_disk
from gkdplan.runtime.saved.claim import open_run_directory
from gkdplan.runtime.saved.run_directory import RunDirectory

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


@contextmanager
def met(
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
    check_all_servers(run_plan)
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
    lacks = missing_here(run_plan) if placement.local_rank == 0 else ()
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
