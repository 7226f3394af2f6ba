"""The dry-run memory report: buffers x phases of each class of ranks, peak, budget, moves."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from gkdplan.report.residency import (
    device_bytes_during,
    moves_in_order,
    phases_of,
    tiers,
    timeline,
)
from gkdplan.report.step_words import duration, exposed, verb
from gkdplan.report.words import plural
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.ledger import ClassMemory
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.runplan.steps import Move, TeacherForward, saving_of
from gkdplan.units import format_bytes
from gkdplan.vocab import Phase, Tier, Verdict

_ROW_ORDER = (
    "student params",
    "student grads",
    "student",
    "teacher body",
    "teacher",
    "vllm",
    "kv cache",
    "refit",
    "activations",
    "payload",
    "loss",
    "temporaries",
    "overhead",
)
"""How the ledger's rows follow each other, by how their names start; others come last."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The one unit of a table."""

    name: str
    num_bytes: int

    def format(self, num_bytes: int) -> str:
        """One decimal; what would round to nothing says that it is not nothing."""
        scaled = num_bytes / self.num_bytes
        return "<0.1" if 0 < scaled < 0.05 else f"{scaled:,.1f}"


MIB, GIB = Unit("MiB", 2**20), Unit("GiB", 2**30)


def unit_of(run_plan: RunPlan) -> Unit:
    """GiB from a peak of 10 GiB up, else MiB."""
    return GIB if run_plan.ledger.peak_bytes >= 10 * 2**30 else MIB


def memory_report(run_plan: RunPlan, width: int) -> str:
    """Tables, budget and the moves of a step; no line is wider than `width`."""
    return f"{memory_tables(run_plan, width)}\n\n{move_list(run_plan, width)}"


def memory_tables(run_plan: RunPlan, width: int) -> str:
    """The table of the fullest ranks, a line for each group of the others, budget and headroom."""
    fullest = run_plan.ledger.fullest_class
    parts = [memory_table(run_plan, fullest, width)]
    if len(run_plan.ledger.classes) > 1:
        parts.append("\n".join(_columns(other_classes(run_plan))))
    about = [budget(run_plan), disk(run_plan)]
    if run_plan.sampling.vllm is not None:
        about.append(f"kv cache {capacity(run_plan.sampling.vllm)}")
    return "\n\n".join([*parts, "\n".join(wrap("", line, width) for line in about)])


def other_classes(run_plan: RunPlan) -> list[list[str]]:
    """Ranks, stages, peak and its phase of every class but the fullest, under a head; neighbours
    that hold the same rows at a peak in the same phase share a line."""
    unit, fullest = unit_of(run_plan), run_plan.ledger.fullest_class
    rows = [["the other ranks", "stage", f"peak {unit.name}", "in"]]
    for phase, group in _alike(run_plan.ledger.classes):
        members = [memory for memory in group if memory is not fullest]
        if members:
            peaks = [memory.phases[phase].peak_bytes for memory in members]
            stages = runs((memory.stage, memory.stage + 1) for memory in members)
            edges = dict.fromkeys(unit.format(edge) for edge in (min(peaks), max(peaks)))
            ranks = ranks_of([run for memory in members for run in memory.ranks])
            rows.append([ranks, stages, "-".join(edges), phase])
    return rows


def memory_table(run_plan: RunPlan, memory: ClassMemory, width: int) -> str:
    """Buffers x phases of one class; a cell is the bytes on the device, `host`, or `-`."""
    unit, phases = unit_of(run_plan), phases_of(run_plan)
    rows = [[_title(run_plan, memory), *phases]]
    rows += [
        [name, *(_cell(run_plan, memory, name, phase) for phase in phases)]
        for name in row_names(run_plan, memory)
    ]
    peaks = {phase: memory.phases[phase].peak_bytes for phase in phases if phase in memory.phases}
    budget_bytes = run_plan.ledger.budget_bytes
    rows.append(["peak", *(unit.format(peaks[p]) if p in peaks else "-" for p in phases)])
    rows.append(
        ["headroom", *(unit.format(budget_bytes - peaks[p]) if p in peaks else "-" for p in phases)]
    )
    return "\n".join(_align(rows, width))


def row_names(run_plan: RunPlan, memory: ClassMemory) -> list[str]:
    """Every buffer that lies anywhere in any phase: models first, then what passes by."""
    names = {name for phase in memory.phases.values() for name in phase.rows} | tiers(
        run_plan
    ).keys()
    return sorted(names, key=_place)


def ranks_of(half_open: Sequence[tuple[int, int]]) -> str:
    """The ranks of a class: `rank 0`, `ranks 0-7`, `ranks 0-1, 4-5`."""
    only_one = len(half_open) == 1 and half_open[0][1] == half_open[0][0] + 1
    return f"{'rank' if only_one else 'ranks'} {runs(half_open)}"


def runs(half_open: Iterable[tuple[int, int]]) -> str:
    """Numbers as `0-7, 9`; runs that touch or overlap are joined."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(half_open):
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return ", ".join(str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in joined)


def budget(run_plan: RunPlan) -> str:
    """Budget, headroom of the fullest rank, and what lies in a node's RAM."""
    ledger, unit = run_plan.ledger, unit_of(run_plan)
    headroom = ledger.budget_bytes - ledger.peak_bytes
    return (
        f"budget {unit.format(ledger.budget_bytes)} {unit.name} a rank,"
        f" headroom {unit.format(headroom)} {unit.name} ({headroom / ledger.budget_bytes:.0%});"
        f" {host(run_plan)}"
    )


def host(run_plan: RunPlan) -> str:
    """The verdict on a node's RAM: `host fits: 13.2 GiB of 2.0 TiB a node`."""
    ledger = run_plan.ledger
    lies, room = ledger.host_bytes_per_node, ledger.host_budget_bytes_per_node
    verdict = Verdict.FITS if lies <= room else Verdict.OVER
    return f"host {verdict}: {format_bytes(lies)} of {format_bytes(room)} a node"


def disk(run_plan: RunPlan) -> str:
    """What checkpoints take: `checkpoints 40.2 GiB each, 3 at once: 120.6 GiB of disk`."""
    saving = saving_of(run_plan.steps)
    each, all_of_them = format_bytes(saving.num_bytes), format_bytes(saving.room_bytes)
    if saving.num_at_once == 1:
        return f"one checkpoint: {each} of disk"
    return f"checkpoints {each} each, {saving.num_at_once} at once: {all_of_them} of disk"


def capacity(engine: VllmPlan) -> str:
    """What vllm's cache holds: 123,456 tokens, 60 sequences of 2,048 tokens at once."""
    sequences = plural(engine.num_sequences, "sequence")
    return (
        f"of {engine.capacity_tokens:,} tokens holds {sequences} of "
        f"{engine.max_model_len:,} tokens at once"
    )


def move_list(run_plan: RunPlan, width: int) -> str:
    """One aligned line a move, names cut where it would be too wide; then what is not prefetched
    and why."""
    streams = [wrap("", sentence, width) for sentence in streamed(run_plan)]
    rows = move_rows(run_plan)
    if not rows:
        return "\n".join(streams) or "nothing moves between device and host"
    when = max(len(row[0]) for row in rows)
    rows = [[f"{row[0]:<{when}}  {row[1]}", *row[2:]] for row in rows]
    about = [wrap("", sentence, width) for sentence in not_prefetched(run_plan)]
    return "\n".join([*_align(rows, width), *about, *streams])


def streamed(run_plan: RunPlan) -> list[str]:
    """A sentence for a teacher whose layers visit the device: no move holds them for a phase."""
    return [
        f"the teacher's layers visit the device two at a time: {format_bytes(step.streamed_bytes)} "
        f"a step from the host, in {plural(step.num_micro_batches, 'forward')}"
        for step in run_plan.steps
        if isinstance(step, TeacherForward) and step.streamed_bytes
    ]


def move_rows(run_plan: RunPlan) -> list[list[str]]:
    """Under a head: when each move is made, what moves, its bytes, the seconds of its copy and
    those in which nothing else runs, and all that is on the fullest rank's device then."""
    unit = unit_of(run_plan)
    scenes = timeline(run_plan, run_plan.ledger.fullest_class)
    rows = [
        [
            _when(move),
            f"{verb(move)} {move.object}",
            unit.format(move.num_bytes),
            duration(move),
            exposed(move),
            unit.format(device_bytes_during(scenes, move)),
        ]
        for move in moves_in_order(run_plan)
    ]
    head = ["moves of a step", "", unit.name, "copy", "exposed", "device"]
    return [head, *rows] if rows else []


def not_prefetched(run_plan: RunPlan) -> list[str]:
    """A sentence for each object whose copy to the device runs beside nothing."""
    reasons = run_plan.schedule.not_prefetched.items()
    return [f"{name} is not prefetched: {reason}" for name, reason in reasons]


def _when(move: Move) -> str:
    """Before a phase; from the beginning of one on; or until the end of one."""
    if not move.beside:
        return f"before {move.phase}"
    comes = move.to_tier is Tier.DEVICE
    return f"from {move.phase}" if comes else f"until {move.beside[-1]}"


def _title(run_plan: RunPlan, memory: ClassMemory) -> str:
    unit, ranks = unit_of(run_plan).name, ranks_of(memory.ranks)
    if len(run_plan.ledger.classes) == 1:
        return f"{unit} a rank ({ranks})"
    return f"{unit}, stage {memory.stage}, {ranks}"


def _alike(classes: Sequence[ClassMemory]) -> Iterator[tuple[Phase, list[ClassMemory]]]:
    """Runs of classes whose peaks are in one phase and made of the same rows."""
    for (phase, _), run in groupby(classes, key=_peak_of):
        yield phase, list(run)


def _peak_of(memory: ClassMemory) -> tuple[Phase, frozenset[str]]:
    phase = max(memory.phases, key=lambda phase: memory.phases[phase].peak_bytes)
    return phase, frozenset(name for name, size in memory.phases[phase].rows.items() if size)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return [line.rstrip() for line in lines]


def _cell(run_plan: RunPlan, memory: ClassMemory, name: str, phase: Phase) -> str:
    rows = memory.phases[phase].rows if phase in memory.phases else {}
    if rows.get(name):
        return unit_of(run_plan).format(rows[name])
    tier = tiers(run_plan).get(name, {}).get(phase)
    return "host" if tier is Tier.HOST else "-"


def _place(name: str) -> tuple[int, str]:
    starts = (index for index, start in enumerate(_ROW_ORDER) if name.startswith(start))
    return next(starts, len(_ROW_ORDER)), name


def _align(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Names to the left, figures to the right; names are cut where the line would be too wide."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns[1:]]
    room = width - sum(w + 2 for w in widths)
    name_width = min(room, max(map(len, columns[0])))
    return [
        row[0][:name_width].ljust(name_width)
        + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths, strict=True))
        for row in rows
    ]
