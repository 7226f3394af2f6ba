"""Bytes in one unit, and numbers of ranks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gkdplan.runplan.model import RunPlan


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
