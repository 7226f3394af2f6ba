"""The rows of a compiled plan, measured with the student's tokenizer and without torch."""

import os
from collections.abc import Callable, Sequence

from gkdplan import __version__
from gkdplan.cli.compiling import Compiled
from gkdplan.cli.runtime import runtime
from gkdplan.cli.waiting import Tell, bar
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.facts.locate import find_snapshot
from gkdplan.planner.draft import dataset_share
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
        with bar("rows") as tell:
            splits, found = measuring.measure(
                run_plan,
                directory,
                tokenizer.chat_template,
                tokenizer.eos_token,
                _each_row(tell, _num_rows(run_plan)),
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


def _each_row(tell: Tell, num_rows: int) -> Callable[[], None]:
    """Tells of every ROWS_AT_ONCE rows."""
    num_seen = 0

    def advance() -> None:
        nonlocal num_seen
        num_seen += 1
        if num_seen % ROWS_AT_ONCE == 0:
            tell(num_seen, num_rows)

    return advance
