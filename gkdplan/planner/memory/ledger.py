"""The ledger: which bytes are on the device in which phase, their peak, and whether that fits."""

from collections.abc import Mapping, Sequence

from gkdplan.planner.memory.buffer import OVERHEADS, Buffer
from gkdplan.runplan.layout import Layout
from gkdplan.runplan.ledger import ClassMemory, Ledger, PhaseMemory
from gkdplan.runplan.steps import Move
from gkdplan.vocab import Phase, Tier, Verdict

SAFE_SHARE = 0.8
"""Of the budget: published runs below it never ran out of memory."""
USABLE_SHARE = 0.94
"""Of what the overhead leaves: an allocator loses the rest to fragmentation."""
_ORDER = {phase: index for index, phase in enumerate(Phase)}


def tally(
    layout: Layout,
    phases: Sequence[Phase],
    buffers: Sequence[Sequence[Buffer]],
    moves: Sequence[Move],
    budget_bytes: int,
    host_bytes_per_node: int,
    host_budget_bytes_per_node: int,
) -> Ledger:
    """Sum the buffers of each class of ranks phase by phase, those left out that a move has taken
    off the device; the fullest class decides the verdict.

    Moves are about what stays: a buffer of one moment is there for that moment.
    """
    away = _away(phases, moves)
    classes = tuple(
        ClassMemory(
            rank_class.ranks,
            rank_class.stage,
            rank_class.teacher_stage,
            {phase: _phase_memory(phase, of_class, away[phase]) for phase in phases},
        )
        for rank_class, of_class in zip(layout.classes, buffers, strict=True)
    )
    peak_phase, peak = _peak(phases, classes)
    return Ledger(
        budget_bytes=budget_bytes,
        peak_bytes=peak.peak_bytes,
        peak_phase=peak_phase,
        verdict=_verdict(peak, budget_bytes),
        host_bytes_per_node=host_bytes_per_node,
        host_budget_bytes_per_node=host_budget_bytes_per_node,
        classes=classes,
    )


def _peak(phases: Sequence[Phase], classes: Sequence[ClassMemory]) -> tuple[Phase, PhaseMemory]:
    """The first of the largest phases, of the first of the fullest classes."""
    peaks = [(phase, memory.phases[phase]) for phase in phases for memory in classes]
    return max(peaks, key=lambda peak: peak[1].peak_bytes)


def _away(phases: Sequence[Phase], moves: Sequence[Move]) -> dict[Phase, set[str]]:
    """The objects that are not on the device in each phase; a move acts from its phase on, and what
    is under way to the host is on the device until then."""
    first_moves = {move.object: move for move in reversed(moves)}
    away = {name for name, move in first_moves.items() if move.from_tier is not Tier.DEVICE}
    by_phase = {}
    for phase in phases:
        for move in moves:
            if move.phase is phase and move.to_tier is Tier.DEVICE:
                away = away - {move.object}
            elif move.phase is phase:
                away = away | {move.object}
        leaving = {m.object for m in moves if m.to_tier is not Tier.DEVICE and phase in m.beside}
        by_phase[phase] = away - leaving
    return by_phase


def _phase_memory(phase: Phase, buffers: Sequence[Buffer], away: set[str]) -> PhaseMemory:
    """The rows of the phase at its largest moment."""
    alive = [
        buffer
        for buffer in buffers
        if _ORDER[buffer.first] <= _ORDER[phase] <= _ORDER[buffer.last]
        and (buffer.moment is not None or buffer.name not in away)
    ]
    moments = {buffer.moment for buffer in alive} or {None}
    rows_of_moments = [
        _rows([buffer for buffer in alive if buffer.moment in (None, moment)])
        for moment in sorted(moments, key=str)
    ]
    rows = max(rows_of_moments, key=lambda rows: sum(rows.values()))
    return PhaseMemory(rows=rows, peak_bytes=sum(rows.values()))


def _rows(buffers: Sequence[Buffer]) -> Mapping[str, int]:
    rows: dict[str, int] = {}
    for buffer in buffers:
        rows[buffer.name] = rows.get(buffer.name, 0) + buffer.num_bytes
    return rows


def usable_bytes(peak: PhaseMemory, budget_bytes: int) -> int:
    """The largest peak with the overhead of this one that is not refused."""
    overhead = sum(peak.rows.get(name, 0) for name in OVERHEADS)
    return overhead + int(USABLE_SHARE * (budget_bytes - overhead))


def _verdict(peak: PhaseMemory, budget_bytes: int) -> Verdict:
    if peak.peak_bytes <= SAFE_SHARE * budget_bytes:
        return Verdict.FITS
    if peak.peak_bytes <= usable_bytes(peak, budget_bytes):
        return Verdict.TIGHT
    return Verdict.OVER
