"""From a possible plan to its ledger: draft, price, schedule, tally."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gkdplan.facts.model import Device, Facts
from gkdplan.planner.auto_offload import cheapest, offload_choice, without_auto
from gkdplan.planner.draft import Draft
from gkdplan.planner.drafting import draft
from gkdplan.planner.memory.buffer import Buffer
from gkdplan.planner.memory.buffers import phases_of, price_buffers
from gkdplan.planner.memory.ledger import tally
from gkdplan.planner.offload import host_bytes_per_node, in_order, schedule_offload
from gkdplan.planner.prefetch import Moves, Room, obstacles, prefetch, wishes
from gkdplan.planner.timing.prediction import exposed_stream_s, likely_work
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.schedule import Obstacle, OffloadChoice
from gkdplan.runplan.steps import Move
from gkdplan.spec.plan import Plan
from gkdplan.units import parse_bytes


@dataclass(frozen=True, slots=True)
class Priced:
    """A draft with its memory; `buffers` are those of each class of ranks, `choices` what was
    priced for an offload of "auto", `not_prefetched` why copies are waited for."""

    draft: Draft
    buffers: tuple[tuple[Buffer, ...], ...]
    moves: tuple[Move, ...]
    ledger: Ledger
    choices: tuple[OffloadChoice, ...] = ()
    not_prefetched: Mapping[str, Obstacle] = field(default_factory=dict)


def price(plan: Plan, facts: Facts) -> Priced:
    """The plan's memory; of the schedules that an offload of "auto" leaves open, the cheapest's."""
    budget, device = budget_bytes(plan, facts.device), facts.device
    plans = tuple(without_auto(plan))
    priced = [price_draft(draft(decided, facts), device, budget) for decided in plans]
    if len(plans) == 1:
        return priced[0]
    choices = tuple(
        offload_choice(
            decided, found.ledger, found.moves, exposed_stream_s(found.draft, device), device
        )
        for decided, found in zip(plans, priced, strict=True)
    )
    return replace(priced[cheapest(choices)], choices=choices)


def price_draft(decided: Draft, device: Device, budget: int) -> Priced:
    """Price first, schedule then, sum last: the buffers know nothing of where they lie."""
    buffers = _buffers(decided, device)
    moves = schedule_offload(decided, buffers, device)
    waiting = _priced(decided, buffers, moves, device, budget)
    if not any(move.seconds for move in moves):
        return waiting
    phases, wished = phases_of(decided), wishes(decided)
    work = likely_work(decided, device)
    room = Room(waiting.ledger, buffers)
    overlapped = in_order(prefetch(moves, phases, wished, work, room))
    why = obstacles(overlapped, phases, wished, work)
    return replace(_priced(decided, buffers, overlapped, device, budget), not_prefetched=why)


def price_moves(decided: Draft, device: Device, budget: int, moves: Sequence[Move]) -> Priced:
    """With moves that are decided."""
    return _priced(decided, _buffers(decided, device), tuple(moves), device, budget)


def _buffers(decided: Draft, device: Device) -> tuple[tuple[Buffer, ...], ...]:
    return tuple(price_buffers(decided, ranks, device) for ranks in decided.layout.classes)


def _priced(
    decided: Draft,
    buffers: tuple[tuple[Buffer, ...], ...],
    moves: Moves,
    device: Device,
    budget: int,
) -> Priced:
    ledger = tally(
        decided.layout,
        phases_of(decided),
        buffers,
        moves,
        budget,
        host_bytes_per_node(decided, buffers),
        device.host_memory_bytes_per_node,
    )
    return Priced(decided, buffers, moves, ledger)


def budget_bytes(plan: Plan, device: Device) -> int:
    """`cluster.memory_limit`, or all of the device's memory."""
    limit = plan.cluster.memory_limit
    return device.memory_bytes if limit is None else parse_bytes(limit)
