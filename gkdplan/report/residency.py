"""Where objects lie, phase by phase and while something moves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gkdplan.runplan.ledger import ClassMemory
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Move
from gkdplan.vocab import Phase, Tier

_OF_ONE_PHASE = ("kv cache", "activations", "loss tiles")
"""Rows that a phase makes and drops: none of their bytes outlives it."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A phase, or a move before it: row -> bytes on the device and on the host of one rank.

    `under_way` are the moves whose copies run beside the phase.
    """

    phase: Phase
    move: Move | None
    device: Mapping[str, int]
    host: Mapping[str, int]
    under_way: tuple[Move, ...] = ()

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())


def phases_of(run_plan: RunPlan) -> list[Phase]:
    """The phases that the ledger prices, in the order in which they run."""
    priced = {phase for memory in run_plan.ledger.classes for phase in memory.phases}
    return [phase for phase in Phase if phase in priced]


def tiers(run_plan: RunPlan) -> dict[str, dict[Phase, Tier]]:
    """Object -> phase -> tier in it, for the objects of the schedule's moves.

    A move acts before the steps of its phase; before its first move an object lies where that
    move finds it. What the ledger counts in a phase is on the device in it, if only for a moment.
    """
    residency: dict[str, dict[Phase, Tier]] = {}
    moves = moves_in_order(run_plan)
    for name in dict.fromkeys(move.object for move in moves):
        own = [move for move in moves if move.object == name]
        tier = own[0].from_tier
        residency[name] = {}
        for phase in phases_of(run_plan):
            for move in own:
                if move.phase is phase:
                    tier = move.to_tier
            residency[name][phase] = Tier.DEVICE if _is_counted(run_plan, name, phase) else tier
    return residency


def moves_in_order(run_plan: RunPlan) -> list[Move]:
    """The moves of a step as they happen: by phase, and within one as the schedule has them."""
    return sorted(run_plan.schedule.moves, key=lambda move: list(Phase).index(move.phase))


def timeline(run_plan: RunPlan, memory: ClassMemory) -> list[Scene]:
    """The scenes of a step on a rank of a class: before each phase its moves, but for those whose
    copies run beside phases, then the phase.

    While an object moves it lies on the device whole, beside what both the phase before and the
    phase after keep there, and beside the other objects that are there between their own moves; a
    copy lies at both of its ends. An object that returns without a copy has left one on the host.
    The phase before the first is the last of the step before.
    """
    return list(_scenes(run_plan, memory))


def device_bytes_during(scenes: Sequence[Scene], move: Move) -> int:
    """The most on the device while the move is made."""
    return max(s.device_bytes for s in scenes if s.move == move or move in s.under_way)


def timeline_json(run_plan: RunPlan) -> list[dict[str, Any]]:
    """The scenes on the fullest rank: `move` is the object that moves, or null in a phase; in a
    phase `under_way` are the objects that are copied beside it."""
    return [
        {
            "phase": scene.phase,
            "move": scene.move and scene.move.object,
            "under_way": [move.object for move in scene.under_way],
            "device": dict(scene.device),
            "host": dict(scene.host),
            "device_bytes": scene.device_bytes,
        }
        for scene in timeline(run_plan, run_plan.ledger.fullest_class)
    ]


def _scenes(run_plan: RunPlan, memory: ClassMemory) -> Iterator[Scene]:
    moves = moves_in_order(run_plan)
    sizes = {move.object: _largest(memory, move.object) for move in moves}
    places = {move.object: move.from_tier for move in reversed(moves)}
    stays_on_host = {m.object for m in moves if m.to_tier is Tier.HOST and not m.seconds}
    phases = [phase for phase in phases_of(run_plan) if phase in memory.phases]
    for index, phase in enumerate(phases):
        rows, before = memory.phases[phase].rows, memory.phases[phases[index - 1]].rows
        kept = {
            name: min(num_bytes, before[name])
            for name, num_bytes in rows.items()
            if name in before and name not in sizes and name not in _OF_ONE_PHASE
        }
        under_way = tuple(move for move in moves if phase in move.beside)
        leaving = {move.object for move in under_way if move.to_tier is not Tier.DEVICE}
        for move in (move for move in moves if move.phase is phase):
            if move.due is None:
                there = {n for n in sizes if places[n] is Tier.DEVICE} | leaving | {move.object}
                on_host = _on_host(places) | stays_on_host | _host_ends([move])
                yield Scene(phase, move, kept | _sized(sizes, there), _sized(sizes, on_host))
            places[move.object] = move.to_tier
        on_host = _on_host(places) | stays_on_host | _host_ends(under_way)
        yield Scene(phase, None, rows, _sized(sizes, on_host), under_way)


def _on_host(places: Mapping[str, Tier]) -> set[str]:
    return {name for name, tier in places.items() if tier is Tier.HOST}


def _host_ends(moves: Iterable[Move]) -> set[str]:
    return {move.object for move in moves if Tier.HOST in (move.from_tier, move.to_tier)}


def _sized(sizes: Mapping[str, int], names: set[str]) -> dict[str, int]:
    """Those of the objects that the rank has a share of."""
    return {name: size for name, size in sizes.items() if name in names and size}


def _largest(memory: ClassMemory, name: str) -> int:
    """The bytes of an object on a rank: those it has on the device where it is there."""
    return max(phase.rows.get(name, 0) for phase in memory.phases.values())


def _is_counted(run_plan: RunPlan, name: str, phase: Phase) -> bool:
    classes = run_plan.ledger.classes
    return any(memory.phases[phase].rows.get(name) for memory in classes if phase in memory.phases)
