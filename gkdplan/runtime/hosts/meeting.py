"""The ranks of several hosts meet, before any of them trusts another: over torch's TCP store, in
JSON.

The store has no authentication. It listens at the master's address only; where torchrun's agents
opened it, at all of that host's.
"""

import json
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runtime.hosts.placement import Placement

ANSWER_S = 30.0
"""What a rank takes to answer that is there already."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a rank says of itself: the process that it is this time, its host, the seals of its run
    plan, the versions it would run with, what its host lacks, and how its plan differs from rank
    0's."""

    rank: int
    process: str
    host: str
    plan: tuple[str, str]
    versions: dict[str, str]
    lacks: tuple[dict[str, Any], ...] = ()
    differences: tuple[str, ...] = ()


def open_store(placement: Placement, join_timeout_s: float) -> Any:
    """The store in which the ranks meet; raises UserError (GK582) where the master cannot be
    reached in time, or cannot listen."""
    host, port = placement.master_host, placement.master_port
    limit = timedelta(seconds=join_timeout_s)
    is_master = placement.rank == 0 and not placement.has_store
    try:
        listening = {"master_listen_fd": _listen(host, port)} if is_master else {}
        store = dist.TCPStore(
            host, port, None, is_master, limit, wait_for_workers=False, **listening
        )
    except (OSError, RuntimeError) as failure:
        raise UserError(not_reached(placement, join_timeout_s, failure)) from failure
    return dist.PrefixStore("gkdplan", store)


def of_attempt(store: Any, attempt: str) -> Any:
    """The part of the store of one start of the ranks: torchrun keeps its store when it starts them
    anew."""
    return dist.PrefixStore(attempt, store)


def is_said(store: Any, key: str) -> bool:
    return bool(store.check([key]))


def heard(store: Any, key: str) -> Any:
    """What was said under the key."""
    return json.loads(store.get(key))


def say_hello(store: Any, hello: Hello) -> None:
    store.set(f"hello/{hello.rank}", json.dumps(asdict(hello)))


def hear_hellos(store: Any, world_size: int, per_node: int, limit_s: float) -> list[Hello]:
    """Those of all ranks, by rank; raises UserError (GK582) with those that did not come in
    time."""
    missing = _wait_for(store, [f"hello/{rank}" for rank in range(world_size)], limit_s)
    if missing:
        raise UserError(_did_not_come(sorted(missing), world_size, per_node, limit_s))
    hellos = (json.loads(store.get(f"hello/{rank}")) for rank in range(world_size))
    return [Hello(**{**told, "plan": tuple(told["plan"])}) for told in hellos]


def say(store: Any, key: str, told: Any) -> None:
    store.set(key, json.dumps(told))


def hear_all(store: Any, key: str, ranks: Iterable[int], limit_s: float) -> dict[int, Any]:
    """What ranks say under the key, of those that say something in time."""
    keys = {rank: f"{key}/{rank}" for rank in ranks}
    missing = _wait_for(store, list(keys.values()), limit_s)
    told = {rank: name for rank, name in keys.items() if name not in missing}
    return {rank: json.loads(store.get(name)) for rank, name in told.items()}


def refusals(hellos: Sequence[Hello]) -> tuple[Diagnostic, ...]:
    """GK583 where a host would run another plan than rank 0's or with other versions, and what a
    host lacks: each once, with the first host that it is true of."""
    found: dict[str, Diagnostic] = {}
    for hello in hellos:
        for lack in hello.lacks:
            one = Diagnostic(**lack)
            found.setdefault(one.message, _on(hello.host, one, len(hellos)))
        for one in _differences(hellos[0], hello):
            found.setdefault(one.help[0], one)
    return tuple(found.values())


def _on(host: str, found: Diagnostic, num_ranks: int) -> Diagnostic:
    notes = (f"seen on {host}",) if num_ranks > 1 else ()
    return error(
        found.code,
        found.message,
        found.path,
        label=found.label,
        notes=(*found.notes, *notes),
        help=found.help,
    )


def _differences(first: Hello, other: Hello) -> Iterable[Diagnostic]:
    if other.plan != first.plan:
        yield error(
            "GK583",
            f"{other.host} has another plan than {first.host}, the host of rank 0",
            notes=other.differences,
            help=("let every host read the same plan, models and data",),
        )
    for name, version in first.versions.items():
        if other.versions.get(name) != version:
            yield error(
                "GK583",
                f"{other.host} has {name} {other.versions.get(name)}, and {first.host} {version}",
                help=(f"install {name} {version} on every host",),
            )


def _listen(host: str, port: int) -> int:
    """A socket that listens at the address, and at no other of this host."""
    (family, *_, address) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(4096)
    except OSError:
        opened.close()
        raise
    return opened.detach()


def _wait_for(store: Any, keys: Sequence[str], limit_s: float) -> set[str]:
    """The keys that nobody has set in time."""
    deadline, missing = time.monotonic() + limit_s, set(keys)
    while missing and time.monotonic() < deadline:
        missing = {key for key in missing if not store.check([key])}
        time.sleep(0.02 if missing else 0.0)
    return missing


def not_reached(placement: Placement, limit_s: float, failure: Exception) -> Diagnostic:
    at = f"{placement.master_host}:{placement.master_port}"
    if placement.rank == 0 and isinstance(failure, OSError):
        return error(
            "GK582",
            f"rank 0 cannot listen at {at}: {failure}",
            help=(
                "set `MASTER_ADDR` to an address of the host of rank 0, and "
                "`cluster.master_port` or `MASTER_PORT` to a port that is free there",
            ),
        )
    return error(
        "GK582",
        f"rank {placement.rank} on {socket.gethostname()} did not reach rank 0 at {at} within "
        f"{limit_s:g} s",
        "cluster.join_timeout_s",
        notes=(str(failure).splitlines()[0],),
        help=(
            "look whether rank 0 started, and whether a firewall lets its port through",
            "or raise `cluster.join_timeout_s` where hosts start at different times",
        ),
    )


def _did_not_come(keys: list[str], world_size: int, per_node: int, limit_s: float) -> Diagnostic:
    ranks = sorted(int(key.split("/")[1]) for key in keys)
    nodes = sorted({rank // per_node for rank in ranks})
    numbers = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return error(
        "GK582",
        f"{len(ranks)} of {world_size} ranks did not come within {limit_s:g} s: {numbers}",
        "cluster.join_timeout_s",
        label=f"of {'node' if len(nodes) == 1 else 'nodes'} {', '.join(map(str, nodes[:8]))}",
        help=(
            "look whether they started; each says on its own host what stopped it",
            "or raise `cluster.join_timeout_s` where hosts start at different times",
        ),
    )
