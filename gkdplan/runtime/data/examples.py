"""The rows of a run as tokens, within the plan's limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gkdplan.diagnostics import Diagnostic, UserError
from gkdplan.runplan.model import DataPlan, DataSource, TeacherServer
from gkdplan.runtime.data.bad_rows import BadRows
from gkdplan.runtime.data.refused_rows import (
    all_too_long,
    cut_images,
    no_response,
    no_row,
    too_long,
)
from gkdplan.runtime.data.rows import Row, read_items, read_row
from gkdplan.runtime.data.tokenise import TokenisedRow, Tokens, tokenise

if TYPE_CHECKING:
    from gkdplan.runtime.data.chat import Chat
    from gkdplan.runtime.vision.images import Shown

NUM_SHOWN = 3
"""Rows that are named of those that are left out."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready to learn from.

    `row` counts the rows of all files of the split from 0, those that are left out included.
    `location` is where the row stands. `response` is the dataset's, None where the row gives none.
    `prompt_text` is the prompt as the model sees it, `question` what the user said last. `teacher`
    is the value that names the row's teacher, None where there is one for all rows. `shown` are the
    pictures whose tokens the prompt holds, in order.
    """

    row: int
    location: str
    prompt: Tokens
    response: Tokens | None
    prompt_text: str
    question: str
    teacher: str | None = None
    shown: "tuple[Shown, ...]" = ()


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples of a split, named by its `key` in the plan, and what its limits cost.

    `longest` is the prompt with most tokens, and where its row stands, if it exceeds the limit.
    `file_sizes` are the examples of each file. `bad_rows` say of each row that was left out, as it
    cannot be used, why.
    """

    key: str
    examples: tuple[Example, ...]
    num_deleted: int
    num_truncated: int
    num_cut: int
    longest: tuple[int, str] | None = None
    file_sizes: tuple[int, ...] = ()
    bad_rows: tuple[Diagnostic, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each kind of loss, so that none is silent."""
        losses = (
            (len(self.bad_rows), "rows", "left out, they cannot be used"),
            (self.num_deleted, "rows", "left out, their prompts exceed `data.max_length`"),
            (self.num_truncated, "prompts", "cut to `data.max_length`"),
            (self.num_cut, "responses", "cut to `generation.max_completion_length`"),
        )
        lines = [
            f"{what} of `{self.key}` {fate}: {count:,}" for count, what, fate in losses if count
        ]
        lines += [f"{found.code}: {found.message}" for found in self.bad_rows[:NUM_SHOWN]]
        if self.longest is not None:
            num_tokens, place = self.longest
            lines.append(
                f"the longest prompt of `{self.key}` has {num_tokens:,} tokens, at {place}"
            )
        return tuple(lines)


def load_examples(
    sources: Sequence[DataSource],
    chat: "Chat",
    data: DataPlan,
    max_completion_length: int,
    *,
    key: str = "data.train",
    needs_responses: bool = False,
    server: TeacherServer | None = None,
) -> Examples:
    """Read and tokenise every row of `sources`, the files that the plan's `key` names.

    A prompt longer than `data.max_length` tokens is dealt with as `data.truncation` says: "delete"
    leaves the row out, "left" and "right" drop tokens on that side, "error" refuses the run. A
    response longer than `max_completion_length` tokens loses its end, the end of turn included.
    Where `server` has several teachers, each row names its own. Of each file `data.max_bad_rows`
    may be left out.

    Raises UserError: GK469 to GK487 as `read_items`, `read_row` and `tokenise` say, GK476 for a
    prompt that is too long or where all are left out (also all of a file that has a weight), GK478
    for a row without a response where `needs_responses`, GK489 for a prompt with images that would
    be cut.
    """
    examples: list[Example] = []
    file_sizes: list[int] = []
    deleted_lengths: list[int] = []
    long_prompts: list[tuple[int, str]] = []
    left_out: list[Diagnostic] = []
    num_read = num_truncated = num_cut = 0
    for i, source in enumerate(sources):
        row_key, num_before = f"{key}[{i}]", len(examples)
        bad = BadRows(data.max_bad_rows)
        for index, item in enumerate(read_items(source, row_key), start=num_read):
            num_read = index + 1
            try:
                row = read_row(item, row_key, *teacher_column(server))
                whole = tokenise(row, chat, row_key)
            except UserError as refusal:
                bad.leave_out(refusal)
                continue
            if needs_responses and whole.response is None:
                raise no_response(row, row_key)
            prompt = fit_prompt(whole, row, data)
            if prompt != whole.prompt:
                long_prompts.append((len(whole.prompt), row.location))
            if prompt is None:
                deleted_lengths.append(len(whole.prompt))
                continue
            response = whole.response and whole.response[:max_completion_length]
            num_truncated += prompt != whole.prompt
            num_cut += response != whole.response
            examples.append(_example(index, row, whole, prompt, response, chat))
        file_sizes.append(len(examples) - num_before)
        left_out += bad.refusals
    if deleted_lengths and not examples:
        raise all_too_long(deleted_lengths, key, data)
    if data.weights and key == "data.train" and 0 in file_sizes:
        raise no_row(sources[file_sizes.index(0)], f"{key}[{file_sizes.index(0)}]")
    return Examples(
        key,
        tuple(examples),
        len(deleted_lengths),
        num_truncated,
        num_cut,
        max(long_prompts, default=None),
        tuple(file_sizes),
        tuple(left_out),
    )


def teacher_column(server: TeacherServer | None) -> tuple[str | None, Sequence[str]]:
    """The column that names a row's teacher, and what it may hold."""
    return (None, ()) if server is None else (server.column, server.values)


def _example(
    index: int,
    row: Row,
    whole: TokenisedRow,
    prompt: Tokens,
    response: Tokens | None,
    chat: "Chat",
) -> Example:
    text = chat.decode(prompt, special=True)
    question, teacher, shown = whole.question, row.teacher, whole.shown
    return Example(index, row.location, prompt, response, text, question, teacher, shown)


def fit_prompt(whole: TokenisedRow, row: Row, data: DataPlan) -> Tokens | None:
    """The prompt within `data.max_length`, or None where its row is left out."""
    prompt = whole.prompt
    if len(prompt) <= data.max_length:
        return prompt
    if whole.shown and data.truncation in ("left", "right"):
        raise cut_images(prompt, row, data)
    match data.truncation:
        case "left":
            return prompt[-data.max_length :]
        case "right":
            return prompt[: data.max_length]
        case "delete":
            return None
        case "error":
            raise too_long(prompt, row, data)
        case _:
            raise AssertionError(f"unknown truncation {data.truncation}")
