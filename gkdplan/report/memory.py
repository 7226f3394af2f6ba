"""The dry-run memory report: buffers x phases of each class of ranks, peak, budget, moves."""

from collections.abc import Sequence
from dataclasses import dataclass

from gkdplan.report.residency import phases_of, tiers
from gkdplan.report.step_words import duration, verb
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import ClassMemory, RunPlan
from gkdplan.units import format_bytes
from gkdplan.vocab import Phase, Tier

_ROW_ORDER = (
    "student params",
    "student grads",
    "student",
    "teacher body",
    "teacher",
    "kv cache",
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
    return f"{memory_tables(run_plan, width)}\n\n{move_list(run_plan)}"


def memory_tables(run_plan: RunPlan, width: int) -> str:
    """A table of each class of ranks, then budget and headroom."""
    tables = [memory_table(run_plan, memory, width) for memory in run_plan.ledger.classes]
    return "\n\n".join([*tables, wrap("", budget(run_plan), width)])


def memory_table(run_plan: RunPlan, memory: ClassMemory, width: int) -> str:
    """Buffers x phases of one class; a cell is the bytes on the device, `host`, or `-`."""
    unit, phases = unit_of(run_plan), phases_of(run_plan)
    title = f"{unit.name} a rank ({ranks_of(memory.ranks)})"
    rows = [[title, *phases]]
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
    runs = [str(first) if end == first + 1 else f"{first}-{end - 1}" for first, end in half_open]
    only_one = len(runs) == 1 and "-" not in runs[0]
    return f"{'rank' if only_one else 'ranks'} {', '.join(runs)}"


def budget(run_plan: RunPlan) -> str:
    """Budget, headroom of the fullest rank, and what lies in a node's RAM."""
    ledger, unit = run_plan.ledger, unit_of(run_plan)
    headroom = ledger.budget_bytes - ledger.peak_bytes
    return (
        f"budget {unit.format(ledger.budget_bytes)} {unit.name} a rank,"
        f" headroom {unit.format(headroom)} {unit.name} ({headroom / ledger.budget_bytes:.0%});"
        f" host {format_bytes(ledger.host_bytes_per_node)} a node"
    )


def move_list(run_plan: RunPlan) -> str:
    """One aligned line a move, under a title."""
    if not run_plan.schedule.moves:
        return "nothing moves between device and host"
    rows = [
        [
            f"  before {move.phase}",
            f"{verb(move)} {move.object}",
            f"{move.from_tier} -> {move.to_tier}",
            format_bytes(move.num_bytes),
            duration(move),
        ]
        for move in run_plan.schedule.moves
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(["moves of a step", *(line.rstrip() for line in lines)])


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
