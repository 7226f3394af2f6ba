"""The rows of a compiled plan, measured with the student's tokenizer and without torch."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gkdplan import __version__
from gkdplan.cli.compiling import Compiled
from gkdplan.cli.runtime import runtime
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.facts.locate import find_snapshot
from gkdplan.planner.draft import dataset_share
from gkdplan.quiet import is_quiet
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.row_lengths import SplitLengths

ROWS_AT_ONCE = 100
"""Between two moves of the bar."""


def measured(compiled: Compiled) -> tuple[Sequence[SplitLengths], tuple[Diagnostic, ...]]:
    """The lengths of every split, and what a run would refuse; none where no row can be measured.
    The findings have their places."""
    run_plan = compiled.require()
    assert compiled.plan is not None
    assert compiled.facts is not None
    tokenizer, model = compiled.facts.student.tokenizer, compiled.plan.student
    try:
        if tokenizer is None:
            raise UserError(_no_tokenizer(model.model))
        if run_plan.models.student.shape.vision is not None:
            raise UserError(_sees())
        directory = _directory(model.model, model.revision)
        measuring = runtime("data.measuring")
        with _bar(_num_rows(run_plan)) as advance:
            splits, found = measuring.measure(
                run_plan,
                directory,
                tokenizer.chat_template,
                tokenizer.eos_token,
                advance,
                needs_responses=dataset_share(compiled.plan) > 0,
            )
    except UserError as refusal:
        return (), compiled.placed(refusal.diagnostics)
    return splits, compiled.placed(found)


def _directory(model: str, revision: str | None) -> str:
    snapshot = model if os.path.isdir(model) else find_snapshot(model, revision)
    assert snapshot is not None, "its tokenizer was seen"
    return snapshot


def _num_rows(run_plan: RunPlan) -> int:
    return sum(source.num_rows for source in (*run_plan.data.train, *run_plan.data.eval))


def _no_tokenizer(model: str) -> Diagnostic:
    return error(
        "GK480",
        f"the tokenizer of `{model}` is not on this machine, so its tokens cannot be counted",
        "student.model",
        help=(f"`hf download {model}` puts it into the cache",),
    )


def _sees() -> Diagnostic:
    return error(
        "GK591",
        f"`gkdplan check --data` does not yet count the tokens of images in gkdplan {__version__}",
        "student.model",
        label="it sees images",
    )


@contextmanager
def _bar(num_rows: int) -> Iterator[Callable[[], None]]:
    """A bar with an ETA on stderr, where it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Eta

    columns = TextColumn("rows"), MofNCompleteColumn(), BarColumn(bar_width=30), Eta(compact=True)
    is_shown = sys.stderr.isatty() and not is_quiet()
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown) as bar:
        task, num_seen = bar.add_task("rows", total=num_rows), 0

        def advance() -> None:
            nonlocal num_seen
            num_seen += 1
            if num_seen % ROWS_AT_ONCE == 0:
                bar.update(task, completed=num_seen)

        yield advance
