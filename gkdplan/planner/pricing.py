"""From a possible plan to its ledger: draft, price, schedule, tally."""

from dataclasses import dataclass, replace

from gkdplan.facts.model import Device, Facts
from gkdplan.planner.auto_offload import cheapest, offload_choice, without_auto
from gkdplan.planner.draft import Draft, draft
from gkdplan.planner.memory.buffer import Buffer
from gkdplan.planner.memory.buffers import phases_of, price_buffers
from gkdplan.planner.memory.ledger import tally
from gkdplan.planner.offload import host_bytes_per_node, schedule_offload
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.schedule import OffloadChoice
from gkdplan.runplan.steps import Move
from gkdplan.spec.plan import Plan
from gkdplan.units import parse_bytes


@dataclass(frozen=True, slots=True)
class Priced:
    """A draft with its memory; `buffers` are those of each class of ranks, `choices` what was
    priced for an offload of "auto"."""

    draft: Draft
    buffers: tuple[tuple[Buffer, ...], ...]
    moves: tuple[Move, ...]
    ledger: Ledger
    choices: tuple[OffloadChoice, ...] = ()


def price(plan: Plan, facts: Facts) -> Priced:
    """The plan's memory; of the schedules that an offload of "auto" leaves open, the cheapest's."""
    budget, device = budget_bytes(plan, facts.device), facts.device
    plans = tuple(without_auto(plan))
    priced = [price_draft(draft(decided, facts), device, budget) for decided in plans]
    if len(plans) == 1:
        return priced[0]
    choices = tuple(
        offload_choice(decided, found.ledger, found.moves, device)
        for decided, found in zip(plans, priced, strict=True)
    )
    return replace(priced[cheapest(choices)], choices=choices)


def price_draft(decided: Draft, device: Device, budget: int) -> Priced:
    """Price first, schedule then, sum last: the buffers know nothing of where they lie."""
    classes = decided.layout.classes
    buffers = tuple(price_buffers(decided, ranks, device) for ranks in classes)
    moves = schedule_offload(decided, buffers, device)
    ledger = tally(
        decided.layout,
        phases_of(decided),
        buffers,
        moves,
        budget,
        host_bytes_per_node(decided, buffers),
    )
    return Priced(decided, buffers, moves, ledger)


def budget_bytes(plan: Plan, device: Device) -> int:
    """`cluster.memory_limit`, or all of the device's memory."""
    limit = plan.cluster.memory_limit
    return device.memory_bytes if limit is None else parse_bytes(limit)
