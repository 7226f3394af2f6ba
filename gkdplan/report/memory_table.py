"""Buffers x phases of each class of ranks."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from gkdplan.report.columns import figures_aligned
from gkdplan.report.figures import ranks_of, runs, unit_of
from gkdplan.report.residency import phases_of, tiers
from gkdplan.runplan.ledger import ClassMemory
from gkdplan.runplan.model import RunPlan
from gkdplan.vocab import Phase, Tier

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
    return "\n".join(figures_aligned(rows, width))


def row_names(run_plan: RunPlan, memory: ClassMemory) -> list[str]:
    """Every buffer that lies anywhere in any phase: models first, then what passes by."""
    names = {name for phase in memory.phases.values() for name in phase.rows} | tiers(
        run_plan
    ).keys()
    return sorted(names, key=_place)


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


def _cell(run_plan: RunPlan, memory: ClassMemory, name: str, phase: Phase) -> str:
    rows = memory.phases[phase].rows if phase in memory.phases else {}
    if rows.get(name):
        return unit_of(run_plan).format(rows[name])
    tier = tiers(run_plan).get(name, {}).get(phase)
    return "host" if tier is Tier.HOST else "-"


def _place(name: str) -> tuple[int, str]:
    starts = (index for index, start in enumerate(_ROW_ORDER) if name.startswith(start))
    return next(starts, len(_ROW_ORDER)), name
