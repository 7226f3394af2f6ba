"""The ledger beside a traced step, class by class and phase by phase."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gkdplan.report.figures import ranks_of
from gkdplan.runplan.layout import RankClass
from gkdplan.runplan.ledger import ClassMemory
from gkdplan.runplan.model import RunPlan
from gkdplan.vocab import Phase

OVERHEAD = "overhead"
"""How the rows of what is held outside tensors begin, which no trace sees."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Peak bytes of tensors on one rank in a phase; `traced_bytes` is None where none was run."""

    phase: Phase
    planned_bytes: int
    traced_bytes: int | None

    @property
    def error(self) -> float | None:
        """How far the plan is above the trace, as a share of the trace."""
        if self.traced_bytes is None:
            return None
        return self.planned_bytes / self.traced_bytes - 1


@dataclass(frozen=True, slots=True)
class ClassComparison:
    """Every phase of one class of ranks."""

    memory: ClassMemory
    phases: tuple[Comparison, ...]

    @property
    def errors(self) -> list[float]:
        """Of the traced phases."""
        return [phase.error for phase in self.phases if phase.error is not None]


def compare(
    run_plan: RunPlan, traced: Mapping[RankClass, Mapping[Phase, int]]
) -> tuple[ClassComparison, ...]:
    """Every class of the plan's ranks, in the ledger's order."""
    of_ranks = {rank_class.ranks: peaks for rank_class, peaks in traced.items()}
    return tuple(
        ClassComparison(
            memory,
            tuple(
                Comparison(phase, _tensor_bytes(memory, phase), of_ranks[memory.ranks].get(phase))
                for phase in memory.phases
            ),
        )
        for memory in run_plan.ledger.classes
    )


def trace_table(classes: Sequence[ClassComparison]) -> str:
    """For each class a line a phase: planned and traced MiB on a rank, and how far the plan is
    off."""
    rows = [row for of_class in classes for row in _rows(of_class)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def trace_json(classes: Sequence[ClassComparison]) -> dict[str, Any]:
    """Of the answer of `verify --trace --json`: `classes`, and in `phases` the fullest rank of each
    phase; untraced phases have nulls."""
    return {
        "phases": _phases_json(_fullest(phases) for phases in _side_by_side(classes)),
        "classes": [
            {
                "ranks": [list(run) for run in of_class.memory.ranks],
                "stage": of_class.memory.stage,
                "teacher_stage": of_class.memory.teacher_stage,
                "phases": _phases_json(of_class.phases),
            }
            for of_class in classes
        ],
    }


def _tensor_bytes(memory: ClassMemory, phase: Phase) -> int:
    planned = memory.phases[phase]
    return planned.peak_bytes - sum(
        num_bytes for name, num_bytes in planned.rows.items() if name.startswith(OVERHEAD)
    )


def _side_by_side(classes: Sequence[ClassComparison]) -> Iterable[tuple[Comparison, ...]]:
    """For each phase its comparisons in all classes."""
    return zip(*(of_class.phases for of_class in classes), strict=True)


def _fullest(of_classes: Sequence[Comparison]) -> Comparison:
    """One phase, planned and traced on the rank where each is most."""
    traced = [of_class.traced_bytes for of_class in of_classes if of_class.traced_bytes is not None]
    return Comparison(
        of_classes[0].phase,
        max(of_class.planned_bytes for of_class in of_classes),
        max(traced, default=None),
    )


def _phases_json(phases: Iterable[Comparison]) -> list[dict[str, Any]]:
    return [
        {
            "phase": phase.phase,
            "planned_bytes": phase.planned_bytes,
            "traced_bytes": phase.traced_bytes,
            "error": phase.error,
        }
        for phase in phases
    ]


def _rows(of_class: ClassComparison) -> list[tuple[str, str, str, str]]:
    title = f"MiB of tensors, {ranks_of(of_class.memory.ranks)}"
    return [(title, "planned", "traced", "error"), *map(_row, of_class.phases)]


def _row(comparison: Comparison) -> tuple[str, str, str, str]:
    planned = f"{comparison.planned_bytes / 2**20:,.1f}"
    if comparison.traced_bytes is None or comparison.error is None:
        return comparison.phase, planned, "not traced", ""
    traced = f"{comparison.traced_bytes / 2**20:,.1f}"
    return comparison.phase, planned, traced, f"{comparison.error:+.3%}"
