"""A bar with an ETA on stderr, for work that takes long: on a terminal, and not with `--quiet`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gkdplan.quiet import is_quiet

Tell = Callable[[int, int], None]
"""How much is done, and of how much."""


@contextmanager
def bar(what: str) -> Iterator[Tell]:
    """Moves from one end to the other until it is told how far the work is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Eta

    columns = (
        TextColumn(what),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        Eta(compact=True),
    )
    is_shown = sys.stderr.isatty() and not is_quiet()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not is_shown) as shown:
        task = shown.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)

        yield tell
