"""What is said of ranks that the others waited for in vain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.runtime.phases import Position

CODE = "GK537"
_KEY = "cluster.collective_timeout_s"


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a rank is; `is_waiting` in what ranks do together."""

    step: int
    phase: str
    where: str
    is_waiting: bool


def who_is_lost(
    answers: Mapping[int, Answer],
    hosts: Sequence[str],
    own_rank: int,
    position: Position,
    timeout_s: float,
    failure: BaseException,
) -> tuple[Diagnostic, ...]:
    """GK537 of the ranks that are silent, or else of those that answer from elsewhere than the
    others wait; `position` and `failure` are of rank `own_rank`, which waited for them."""
    limit = f"`{_KEY}` is {timeout_s:g}"
    silent = [rank for rank in range(len(hosts)) if rank not in answers and rank != own_rank]
    if silent:
        found = error(
            CODE,
            f"{named(silent, hosts)} {'does' if len(silent) == 1 else 'do'} not answer; "
            f"rank {own_rank} waited in {position}",
            notes=(limit, _reason(failure)),
            help=("look whether the process and its host are up; `--resume auto` then goes on",),
        )
        return (found,)
    others = {rank: answer for rank, answer in answers.items() if rank != own_rank}
    busy = [rank for rank, answer in others.items() if not answer.is_waiting]
    lost = busy or list(others)
    found = error(
        CODE,
        f"{named(lost, hosts)} did not take part in what rank {own_rank} waited for in {position}",
        notes=(
            *(f"rank {r}: {a.phase} phase of step {a.step}, {a.where}" for r, a in others.items()),
            limit,
            _reason(failure),
        ),
        help=(f"raise `{_KEY}` where a rank may be busy for longer; `--resume auto` then goes on",),
    )
    return (found,)


def master_is_gone(
    hosts: Sequence[str], own_rank: int, position: Position, failure: BaseException
) -> tuple[Diagnostic, ...]:
    """GK537 where the host that the ranks met on cannot be asked who is there."""
    found = error(
        CODE,
        f"{hosts[0]}, the host of rank 0, does not answer {hosts[own_rank]}; rank {own_rank} "
        f"waited in {position}",
        notes=(_reason(failure),),
        help=("look at the network between the two; `--resume auto` then goes on",),
    )
    return (found,)


def named(ranks: Iterable[int], hosts: Sequence[str]) -> str:
    """The ranks by their hosts: "rank 1 on a", "ranks 2-3 on b"."""
    ranks = sorted(ranks)
    by_host = [
        (host, list(of_host)) for host, of_host in groupby(ranks, key=lambda rank: hosts[rank])
    ]
    return " and ".join(f"{_numbers(of_host)} on {host}" for host, of_host in by_host)


def _numbers(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    is_run = ranks[-1] - ranks[0] == len(ranks) - 1 and len(ranks) > 2
    return f"ranks {ranks[0]}-{ranks[-1]}" if is_run else f"ranks {', '.join(map(str, ranks))}"


def _reason(failure: BaseException) -> str:
    """What gloo says, without the place in its source and its advice."""
    line = (str(failure).splitlines() or [type(failure).__name__])[0]
    return line.split("] ", 1)[-1].split(". This is typically")[0]
