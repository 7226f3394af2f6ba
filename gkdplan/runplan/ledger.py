"""The memory of a plan: buffers by phase for each class of ranks, and the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass

from gkdplan.vocab import Phase, Verdict


@dataclass(frozen=True, slots=True)
class PhaseMemory:
    """Bytes on the device of one rank in one phase, a row a buffer, in the order of the report."""

    rows: Mapping[str, int]
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class ClassMemory:
    """The memory of one class of identical ranks, phase by phase."""

    ranks: tuple[tuple[int, int], ...]
    stage: int
    teacher_stage: int
    phases: Mapping[Phase, PhaseMemory]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The fullest rank against its budget; bytes are those of one rank, but for the host's, which
    are those of the fullest node against the node's memory. A run that needs more than
    `limit_bytes` is ended: `cluster.memory_limit`, None where the plan names none."""

    budget_bytes: int
    peak_bytes: int
    peak_phase: Phase
    verdict: Verdict
    host_bytes_per_node: int
    host_budget_bytes_per_node: int
    classes: tuple[ClassMemory, ...]
    limit_bytes: int | None = None

    @property
    def phase_peaks(self) -> dict[Phase, int]:
        """Each phase's peak bytes, of the class where they are most."""
        peaks: dict[Phase, int] = {}
        for memory in self.classes:
            for phase, bytes_of in memory.phases.items():
                peaks[phase] = max(peaks.get(phase, 0), bytes_of.peak_bytes)
        return peaks

    @property
    def fullest_class(self) -> ClassMemory:
        """The first whose peak is the ledger's."""
        return max(self.classes, key=lambda memory: memory.phases[self.peak_phase].peak_bytes)
