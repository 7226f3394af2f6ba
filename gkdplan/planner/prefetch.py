"""Which copies run beside the work of other phases: what hides most, within the room there is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.buffer import (
    ENGINE_WEIGHTS,
    STUDENT_PARAMS,
    STUDENT_STATE,
    TEACHER_BODY,
    Buffer,
)
from gkdplan.planner.memory.ledger import SAFE_SHARE
from gkdplan.planner.offload import bytes_of
from gkdplan.planner.timing.exposure import Work, hidden_s
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.schedule import Obstacle
from gkdplan.runplan.steps import Move
from gkdplan.vocab import Phase, Tier

Moves = tuple[Move, ...]
_PLACES = list(Phase)
_SAME_S = 9
"""Decimals of seconds below which two schedules take as long."""


def wishes(draft: Draft) -> Mapping[str, bool | None]:
    """Object -> what the plan says of its prefetch, for the objects that can be prefetched."""
    return {
        TEACHER_BODY: draft.models.teacher.prefetch,
        STUDENT_STATE: draft.optimizer.prefetch,
    }


class Room:
    """What copies beside other work add to the peaks of a ledger in which nothing overlaps."""

    def __init__(self, waiting: Ledger, buffers: Sequence[Sequence[Buffer]]) -> None:
        self._waiting = waiting
        self._classes = tuple(zip(waiting.classes, buffers, strict=True))

    def peak_bytes(self, moves: Moves) -> int:
        """The largest peak of any class: an object lies through whole phases, beside every moment
        of them."""
        return max(
            in_phase.peak_bytes
            + sum(bytes_of(move.object, of_class) for move in moves if phase in move.beside)
            for memory, of_class in self._classes
            for phase, in_phase in memory.phases.items()
        )

    def is_enough(self, moves: Moves, wanted: Moves) -> bool:
        """Whether every class stays within what is safe, or within the peak of what is wanted."""
        safe_bytes = SAFE_SHARE * self._waiting.budget_bytes
        return self.peak_bytes(moves) <= max(safe_bytes, self.peak_bytes(wanted))


def prefetch(
    moves: Moves,
    phases: Sequence[Phase],
    wished: Mapping[str, bool | None],
    work: Work,
    room: Room,
) -> Moves:
    """The moves with the copies that run beside `phases`, those that a step has.

    Of all schedules the one with the fewest exposed seconds, and of equals the one whose copies
    begin latest. What is wished is done whatever room there is.
    """
    forced = {name: wish for name, wish in wished.items() if wish}
    wanted = next(_schedules(moves, phases, forced, work), moves)
    free = {name: None for name, wish in wished.items() if wish is None}
    better = _schedules(wanted, phases, free, work)
    return next((found for found in better if room.is_enough(found, wanted)), wanted)


def widest(moves: Moves, phases: Sequence[Phase], wished: Mapping[str, bool | None]) -> Moves:
    """Every copy beside all phases that it could run beside: no schedule hides more."""
    return tuple(
        max(_ways(move, phases, wished), key=lambda way: len(way.beside)) for move in moves
    )


def obstacles(
    moves: Moves, phases: Sequence[Phase], wished: Mapping[str, bool | None], work: Work
) -> Mapping[str, Obstacle]:
    """Why each object that is waited for from its copy's beginning on is not prefetched."""
    return {
        move.object: _obstacle(move, phases, wished, work)
        for move in moves
        if move.to_tier is Tier.DEVICE and move.seconds and move.due is None
    }


def _obstacle(
    move: Move, phases: Sequence[Phase], wished: Mapping[str, bool | None], work: Work
) -> Obstacle:
    if move.object == ENGINE_WEIGHTS:
        return Obstacle.OF_THE_ENGINE
    if move.object == STUDENT_PARAMS:
        return Obstacle.IN_USE_BEFORE
    if wished[move.object] is False:
        return Obstacle.NOT_WANTED
    if not work.hides_copies:
        return Obstacle.ONE_MEMORY
    return Obstacle.NO_ROOM if _before(move.phase, phases) else Obstacle.NOTHING_BEFORE


def _schedules(
    moves: Moves, phases: Sequence[Phase], wished: Mapping[str, bool | None], work: Work
) -> Iterator[Moves]:
    """Every schedule, the one that exposes least first."""
    schedules = (
        _timed(ways, work)
        for ways in product(*(_ways(move, phases, wished) for move in moves))
        if _leaves_before_it_comes(ways)
    )
    return iter(sorted(schedules, key=_cost))


def _ways(move: Move, phases: Sequence[Phase], wished: Mapping[str, bool | None]) -> Iterator[Move]:
    """As it is, and begun earlier; or, of what is copied out, complete only in the next step."""
    begun = move.due is not None
    is_open = move.object in wished and move.seconds > 0 and not begun
    comes = move.to_tier is Tier.DEVICE
    earlier = _before(move.phase, phases) if is_open and comes else ()
    if not (is_open and comes and wished[move.object] and earlier):
        yield move
    for phase in earlier:
        yield replace(move, phase=phase, due=move.phase)
    if is_open and not comes:
        for phase in phases[1:]:
            if phase is not move.phase:
                yield replace(move, due=phase)


def _before(phase: Phase, phases: Sequence[Phase]) -> tuple[Phase, ...]:
    return tuple(earlier for earlier in phases if _PLACES.index(earlier) < _PLACES.index(phase))


def _leaves_before_it_comes(moves: Moves) -> bool:
    """What leaves into the next step is away for a phase at least before it comes there."""
    comes = {move.object: move.phase for move in moves if move.to_tier is Tier.DEVICE}
    return all(
        _PLACES.index(move.due) < _PLACES.index(comes[move.object])
        for move in moves
        if move.to_tier is not Tier.DEVICE and move.due is not None
    )


def _timed(moves: Moves, work: Work) -> Moves:
    hidden = hidden_s(moves, work)
    return tuple(replace(m, hidden_s=s) for m, s in zip(moves, hidden, strict=True))


def _cost(moves: Moves) -> tuple[float, int]:
    exposed = sum(move.exposed_s for move in moves)
    return round(exposed, _SAME_S), sum(len(move.beside) for move in moves)
