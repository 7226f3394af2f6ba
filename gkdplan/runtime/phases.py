"""The clock and the meter of a step's phases."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from gkdplan.diagnostics import UserError, error
from gkdplan.runtime.live_bytes import LiveBytes, OverLimitError
from gkdplan.runtime.progress import Progress
from gkdplan.units import format_bytes
from gkdplan.vocab import Phase

MEASURED_FIRST_STEPS = 2
MEASURED_EVERY_STEPS = 100


@dataclass(slots=True)
class Position:
    """Where a rank is, for the message of a failure; kept in a `file` where one is given, for the
    launcher of a rank that is killed."""

    step: int
    phase: str
    file: Path | None = None

    def enter(self, phase: str) -> None:
        self.phase = phase
        if self.file is not None:
            self.file.write_text(str(self), encoding="utf-8")

    def __str__(self) -> str:
        return f"the {self.phase} phase of step {self.step}"


@dataclass(slots=True)
class Phases:
    """Seconds and peak live bytes of each phase of the current step.

    Bytes are measured in the first two steps of a process and in every 100th, because counting
    them slows a step, and in all where there is a limit that is to be kept; `peak_bytes` is empty
    in the others.
    """

    position: Position
    progress: Progress
    meter: LiveBytes
    first_step: int
    limit_bytes: int | None = None
    seconds: dict[Phase, float] = field(default_factory=lambda: defaultdict(float))
    peak_bytes: dict[Phase, int] = field(default_factory=dict)

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        self.position.step = step
        self.seconds.clear()
        self.peak_bytes.clear()
        with ExitStack() as stack:
            if self._is_measured(step):
                stack.enter_context(self.meter)
            yield

    def enter(self, phase: Phase | str) -> None:
        """Say where the run is, to the person who waits and in the message of a failure."""
        self.position.enter(phase)
        self.progress.enter_phase(phase)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """The steps of a phase, timed and measured.

        Raises UserError (GK534) where they need more of the device than there is.
        """
        self.meter.mark_phase()
        try:
            with self.moves_before(phase):
                yield
        except (OverLimitError, torch.OutOfMemoryError) as failure:
            raise self._out_of_memory(phase, failure) from failure
        if self._is_measured(self.position.step):
            self.peak_bytes[phase] = max(self.peak_bytes.get(phase, 0), self.meter.peak_bytes)

    @contextmanager
    def moves_before(self, phase: Phase) -> Iterator[None]:
        """Moves before the steps of a phase, timed only: what leaves is no part of the phase.

        The clock waits for the work that was queued, and not for a copy that runs beside it.
        """
        self.enter(phase)
        started_s = time.perf_counter()
        yield
        if self.meter.device.type == "cuda":
            torch.cuda.current_stream(self.meter.device).synchronize()
        self.seconds[phase] += time.perf_counter() - started_s

    def peak_bytes_of_ranks(self, device: torch.device) -> dict[Phase, int]:
        """Each measured phase's peak on the rank where it is largest; every rank takes part."""
        if not self._is_measured(self.position.step):
            return {}
        peaks = torch.tensor([self.peak_bytes.get(phase, 0) for phase in Phase], device=device)
        dist.all_reduce(peaks, dist.ReduceOp.MAX)
        return {phase: peak for phase, peak in zip(Phase, peaks.tolist(), strict=True) if peak}

    def _is_measured(self, step: int) -> bool:
        since_start = step - self.first_step
        if self.limit_bytes is not None and self.meter.device.type == "cpu":
            return True
        return since_start < MEASURED_FIRST_STEPS or step % MEASURED_EVERY_STEPS == 0

    def _out_of_memory(
        self, phase: Phase, failure: MemoryError | torch.OutOfMemoryError
    ) -> UserError:
        there = "the device" if self.limit_bytes is None else format_bytes(self.limit_bytes)
        wanted = (
            f"more than {format_bytes(failure.live_bytes - 1)}"
            if isinstance(failure, OverLimitError)
            else str(failure).splitlines()[0]
        )
        return UserError(
            error(
                "GK534",
                f"step {self.position.step} ran out of memory in the {phase} phase",
                "cluster.memory_limit" if self.limit_bytes is not None else "cluster.device",
                label=f"{there} is all that a rank has",
                notes=(f"wanted: {wanted}",),
                help=(
                    "`gkdplan memory PLAN` shows what the phase was planned to hold; "
                    "`gkdplan search PLAN` finds what fits",
                ),
            )
        )
