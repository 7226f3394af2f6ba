"""`offload = "auto"`: of all that could wait on the host, what meets the budget at the least
exposed transfer time."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TypeVar

from gkdplan.facts.model import Device
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.schedule import OffloadChoice
from gkdplan.runplan.steps import Move
from gkdplan.spec.plan import Optimizer, Plan, Teacher
from gkdplan.vocab import Verdict

OFFLOADABLE = ("teacher", "optimizer")
"""The tables of a plan that have a key `offload`."""
_BEST_FIRST = (Verdict.FITS, Verdict.TIGHT, Verdict.OVER)


_Table = TypeVar("_Table", Teacher, Optimizer)


def offloaded_to(place: str, table: _Table) -> _Table:
    """The table with another `offload`; with "none" nothing is left of its prefetch."""
    prefetch = table.prefetch if place == "cpu" else None
    return table.model_copy(update={"offload": place, "prefetch": prefetch})


def without_auto(plan: Plan) -> Iterator[Plan]:
    """The plan with "none" and "cpu" in place of each "auto", nothing offloaded first."""
    tables = [name for name in OFFLOADABLE if getattr(plan, name).offload == "auto"]
    for places in product(("none", "cpu"), repeat=len(tables)):
        decided = {
            name: offloaded_to(place, getattr(plan, name))
            for name, place in zip(tables, places, strict=True)
        }
        yield plan.model_copy(update=decided)


def offload_choice(
    plan: Plan, ledger: Ledger, moves: Sequence[Move], device: Device
) -> OffloadChoice:
    """What a plan without "auto" offloads, and at what cost; it is over where the host is."""
    has_host_memory = ledger.host_bytes_per_node <= device.host_memory_bytes_per_node
    return OffloadChoice(
        offloaded=tuple(name for name in OFFLOADABLE if getattr(plan, name).offload == "cpu"),
        verdict=ledger.verdict if has_host_memory else Verdict.OVER,
        peak_bytes=ledger.peak_bytes,
        host_bytes_per_node=ledger.host_bytes_per_node,
        exposed_s=sum(move.exposed_s for move in moves),
    )


def cheapest(choices: Sequence[OffloadChoice]) -> int:
    """The index of the best verdict's least exposed time; of what does not fit, of the smallest
    peak. Of equals the first."""
    return min(range(len(choices)), key=lambda index: _cost(choices[index]))


def _cost(choice: OffloadChoice) -> tuple[int, float]:
    cost = choice.peak_bytes if choice.verdict is Verdict.OVER else choice.exposed_s
    return _BEST_FIRST.index(choice.verdict), cost
