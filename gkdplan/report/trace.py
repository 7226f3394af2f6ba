"""The ledger beside a traced step, phase by phase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gkdplan.runplan.model import RunPlan
from gkdplan.vocab import Phase

OVERHEAD = "overhead"
"""The ledger's row of what is held outside tensors, which no trace sees."""


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


def compare(run_plan: RunPlan, traced: Mapping[Phase, int]) -> tuple[Comparison, ...]:
    """Every phase of the plan's fullest class of ranks."""
    return tuple(
        Comparison(phase, memory.peak_bytes - memory.rows.get(OVERHEAD, 0), traced.get(phase))
        for phase, memory in run_plan.ledger.classes[0].phases.items()
    )


def trace_table(comparisons: Sequence[Comparison]) -> str:
    """A line a phase: planned and traced MiB on a rank, and by how much the plan is off."""
    rows = [("MiB of tensors on a rank", "planned", "traced", "error")]
    rows += [_row(comparison) for comparison in comparisons]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def trace_json(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """`phases` of the answer of `verify --trace --json`; untraced phases have nulls."""
    return [
        {
            "phase": comparison.phase,
            "planned_bytes": comparison.planned_bytes,
            "traced_bytes": comparison.traced_bytes,
            "error": comparison.error,
        }
        for comparison in comparisons
    ]


def _row(comparison: Comparison) -> tuple[str, str, str, str]:
    planned = f"{comparison.planned_bytes / 2**20:,.1f}"
    if comparison.traced_bytes is None or comparison.error is None:
        return comparison.phase, planned, "not traced", ""
    traced = f"{comparison.traced_bytes / 2**20:,.1f}"
    return comparison.phase, planned, traced, f"{comparison.error:+.3%}"
