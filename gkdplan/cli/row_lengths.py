"""The rows of a compiled plan, measured with the student's tokenizer: without torch, but for models
that see."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gkdplan.cli.compiling import Compiled
from gkdplan.cli.runtime import runtime
from gkdplan.cli.terminal import remark
from gkdplan.cli.waiting import Tell, bar
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.facts.locate import find_snapshot
from gkdplan.facts.model import TokenizerFacts
from gkdplan.planner.sources import dataset_share
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.row_lengths import SplitLengths
from gkdplan.spec.models import Student

ROWS_AT_ONCE = 100
"""Between two moves of the bar."""


def measured(
    compiled: Compiled, *, fetches: bool
) -> tuple[Sequence[SplitLengths], tuple[Diagnostic, ...]]:
    """The lengths of every split, and what a run would refuse; none where no row can be measured.
    Where it `fetches`, what rows name by address is fetched before. The findings have their
    places."""
    run_plan = compiled.require()
    assert compiled.plan is not None
    assert compiled.facts is not None
    tokenizer, model = compiled.facts.student.tokenizer, compiled.plan.student
    try:
        if tokenizer is None:
            raise UserError(_no_tokenizer(model.model))
        chat = _chat(run_plan, model, tokenizer, fetches=fetches)
        needs_responses = dataset_share(compiled.plan) > 0
        measuring = runtime("data.measuring")
        with bar("rows") as tell:
            advance = _each_row(tell, _num_rows(run_plan))
            splits, found = measuring.measure(
                run_plan, chat, advance, needs_responses=needs_responses
            )
    except UserError as refusal:
        return (), compiled.placed(refusal.diagnostics)
    return splits, compiled.placed(found)


def _chat(run_plan: RunPlan, student: Student, tokenizer: TokenizerFacts, *, fetches: bool) -> Any:
    """Of models that see as in a run, with torch: images are measured by their processor."""
    directory = _directory(student.model, student.revision)
    assert directory is not None, "its tokenizer was seen"
    if run_plan.models.student.shape.vision is None:
        light_chat = runtime("data.light_chat")
        return light_chat.load_light_chat(directory, tokenizer.chat_template, tokenizer.eos_token)
    teacher = run_plan.models.teacher
    of_teacher = _directory(teacher.model, teacher.revision) or directory
    of_plan, rows = runtime("data.chat_of_plan"), runtime("rows_of_run")
    chat = of_plan.chat_of_plan(run_plan, Path(directory), Path(of_teacher))
    if fetches:
        rows.fetch_images(run_plan, chat, remark)
    return rows.chat_with_fetched_images(run_plan, chat)


def _directory(model: str, revision: str | None) -> str | None:
    return model if os.path.isdir(model) else find_snapshot(model, revision)


def _num_rows(run_plan: RunPlan) -> int:
    return sum(source.num_rows for source in (*run_plan.data.train, *run_plan.data.eval))


def _no_tokenizer(model: str) -> Diagnostic:
    return error(
        "GK480",
        f"the tokenizer of `{model}` is not on this machine, so its tokens cannot be counted",
        "student.model",
        help=(f"`hf download {model}` puts it into the cache",),
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
