"""The progress of a run on stderr: a bar on a terminal, a line a step elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from gkdplan.quiet import is_quiet
from gkdplan.runplan.model import RunPlan
from gkdplan.units import format_bytes
from gkdplan.vocab import Phase, Source


class Progress:
    """What rank 0 tells the person who waits; the other ranks tell nothing."""

    def __init__(self, run_plan: RunPlan, start_step: int, *, shown: bool, terminal: bool) -> None:
        self._num_steps = run_plan.training.num_steps
        self._shown = shown = shown and not is_quiet()
        self._terminal = terminal
        self._started_s = self._finished_s = time.monotonic()
        self._peak_bytes = 0
        console = Console(file=sys.stderr, force_terminal=terminal, soft_wrap=not terminal)
        self._console = console
        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[phase]:<10}"),
            TextColumn("{task.fields[news]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not (shown and terminal),
        )
        self._task = self._bar.add_task(
            "run", total=self._num_steps, completed=start_step, phase="start", news=""
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def enter_phase(self, phase: Phase | str) -> None:
        self._bar.update(self._task, phase=str(phase))

    def finish_step(
        self, step: int, source: Source, loss: float, num_tokens: int, peak_bytes: int = 0
    ) -> None:
        """One step is done: `loss` is the mean of its `num_tokens` response tokens; `peak_bytes`
        were held on this rank's device, 0 where the step was not measured."""
        now_s = time.monotonic()
        pace = f"{num_tokens / (now_s - self._finished_s):,.0f} tok/s"
        self._finished_s = now_s
        self._peak_bytes = peak_bytes or self._peak_bytes
        held = [format_bytes(self._peak_bytes)] if self._peak_bytes else []
        news = " ".join([f"loss {loss:.4f} {source}", pace, *held])
        self._bar.update(self._task, completed=step, news=news)
        if self._shown and not self._terminal:
            elapsed_s = now_s - self._started_s
            self._say(
                f"step {step}/{self._num_steps}  loss {loss:.4f} from {source}, "
                f"{num_tokens} tokens, {pace}, {elapsed_s:.0f} s"
            )

    def tell(self, line: str) -> None:
        """A line that stays above the bar."""
        if self._shown:
            self._say(line)

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)
