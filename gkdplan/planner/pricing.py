"""From a possible plan to its ledger: draft, price, schedule, tally."""

from dataclasses import dataclass

from gkdplan.facts.model import Device, Facts
from gkdplan.planner.draft import Draft, draft
from gkdplan.planner.memory.buffer import Buffer
from gkdplan.planner.memory.buffers import phases_of, price_buffers
from gkdplan.planner.memory.ledger import tally
from gkdplan.planner.offload import host_bytes_per_node, schedule_offload
from gkdplan.runplan.model import Ledger
from gkdplan.runplan.steps import Move
from gkdplan.spec.plan import Plan
from gkdplan.units import parse_bytes


@dataclass(frozen=True, slots=True)
class Priced:
    """A draft with its memory; `buffers` are those of each class of ranks."""

    draft: Draft
    buffers: tuple[tuple[Buffer, ...], ...]
    moves: tuple[Move, ...]
    ledger: Ledger


def price(plan: Plan, facts: Facts) -> Priced:
    """Price first, schedule then, sum last: the buffers know nothing of where they lie."""
    return price_draft(draft(plan, facts), facts.device, budget_bytes(plan, facts.device))


def price_draft(decided: Draft, device: Device, budget: int) -> Priced:
    """The memory of what was decided."""
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
