"""`offload = "auto"`: of all that could leave the device, what meets the budget at the least
exposed transfer time."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TypeVar

from gkdplan.facts.model import Device
from gkdplan.planner.sources import samples_itself
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.schedule import OffloadChoice
from gkdplan.runplan.steps import Move
from gkdplan.spec.learning import Optimizer
from gkdplan.spec.models import Student, Teacher
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Verdict

OFFLOADABLE = ("teacher", "optimizer", "student")
"""The tables of a plan that have a key `offload`."""
STREAM = "stream"
"""In place of a teacher's `offload`: "cpu", and layer by layer."""
_WORDS = {
    ("teacher", "cpu"): "teacher",
    ("teacher", STREAM): "teacher layer by layer",
    ("optimizer", "cpu"): "optimizer",
    ("student", "grads"): "student's gradients",
    ("student", "cpu"): "student",
}
_BEST_FIRST = (Verdict.FITS, Verdict.TIGHT, Verdict.OVER)


_Table = TypeVar("_Table", Teacher, Optimizer, Student)


def offloaded_to(place: str, table: _Table) -> _Table:
    """The table with another `offload`, or a teacher's `stream`; with "none" nothing is left of its
    prefetch."""
    changes: dict[str, object] = {"offload": "cpu" if place == STREAM else place}
    if not isinstance(table, Student):
        changes["prefetch"] = table.prefetch if place == "cpu" else None
    if isinstance(table, Teacher):
        changes["stream"] = place == STREAM
    return table.model_copy(update=changes)


def places(plan: Plan, table: str) -> tuple[str, ...]:
    """Where a table's objects can be, the cheapest in time first. A teacher that samples is not
    streamed (GK426), nor is one that must be prefetched whole, nor the student's average."""
    if table == "student":
        return "none", "grads", "cpu"
    teacher = plan.teacher
    can_stream = not samples_itself(plan) and not teacher.prefetch and teacher.self_ != "ema"
    return ("none", "cpu", STREAM) if table == "teacher" and can_stream else ("none", "cpu")


def place_of(plan: Plan, table: str) -> str:
    """One of `places`, of a plan without "auto"."""
    if table == "teacher" and plan.teacher.stream:
        return STREAM
    place: str = getattr(plan, table).offload
    return place


def without_auto(plan: Plan) -> Iterator[Plan]:
    """The plan with each of the places for each "auto", nothing offloaded first."""
    tables = [name for name in OFFLOADABLE if getattr(plan, name).offload == "auto"]
    for chosen in product(*(places(plan, name) for name in tables)):
        decided = {
            name: offloaded_to(place, getattr(plan, name))
            for name, place in zip(tables, chosen, strict=True)
        }
        yield plan.model_copy(update=decided)


def offload_choice(
    plan: Plan, ledger: Ledger, moves: Sequence[Move], stream_s: float, device: Device
) -> OffloadChoice:
    """What a plan without "auto" offloads, and at what cost; it is over where the host is.
    `stream_s` are waited for within the teacher's forward."""
    of_tables = ((name, place_of(plan, name)) for name in OFFLOADABLE)
    has_host_memory = ledger.host_bytes_per_node <= device.host_memory_bytes_per_node
    return OffloadChoice(
        offloaded=tuple(_WORDS[name, place] for name, place in of_tables if place != "none"),
        verdict=ledger.verdict if has_host_memory else Verdict.OVER,
        peak_bytes=ledger.peak_bytes,
        host_bytes_per_node=ledger.host_bytes_per_node,
        exposed_s=sum(move.exposed_s for move in moves) + stream_s,
    )


def cheapest(choices: Sequence[OffloadChoice]) -> int:
    """The index of the best verdict's least exposed time; of what does not fit, of the smallest
    peak. Of equals the first."""
    return min(range(len(choices)), key=lambda index: _cost(choices[index]))


def _cost(choice: OffloadChoice) -> tuple[int, float]:
    cost = choice.peak_bytes if choice.verdict is Verdict.OVER else choice.exposed_s
    return _BEST_FIRST.index(choice.verdict), cost
