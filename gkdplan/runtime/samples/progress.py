"""The progress of sampling on stderr: a bar on a terminal, a line a batch elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gkdplan.quiet import is_quiet


class SampleProgress:
    """What rank 0 tells the person who waits; the other ranks tell nothing."""

    def __init__(self, *, shown: bool, terminal: bool) -> None:
        self._shown, self._terminal = shown and not is_quiet(), terminal
        self._started_s = time.monotonic()
        self._console = Console(file=sys.stderr, force_terminal=terminal, soft_wrap=not terminal)
        self._bar = Progress(
            TextColumn("rows"),
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[news]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not (self._shown and terminal),
        )
        self._task = self._bar.add_task("rows", total=None, news="")

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

    def begin(self, num_done: int, num_rows: int) -> None:
        self._bar.update(self._task, completed=num_done, total=num_rows)
        if num_done:
            self.tell(f"{num_done:,} of {num_rows:,} rows were sampled before")

    def finish_batch(self, num_done: int, num_rows: int, num_tokens: int) -> None:
        """`num_done` rows have their samples, the last batch `num_tokens` tokens."""
        news = f"{num_tokens:,} tokens in the last batch"
        self._bar.update(self._task, completed=num_done, news=news)
        if not self._terminal:
            elapsed_s = time.monotonic() - self._started_s
            self.tell(f"row {num_done:,}/{num_rows:,}  {news}, {elapsed_s:.0f} s")

    def tell(self, line: str) -> None:
        """A line that stays above the bar."""
        if self._shown:
            self._console.print(line, highlight=False, markup=False)
