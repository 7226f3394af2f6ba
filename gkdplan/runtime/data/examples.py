"""The rows of a run as tokens, within the plan's limits."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gkdplan.diagnostics import Diagnostic, UserError
from gkdplan.runplan.model import DataPlan, DataSource
from gkdplan.runplan.models import TeacherServer
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
    `question` is what the user said last. `teacher` is the value that names the row's teacher, None
    where there is one for all rows. `shown` are the pictures whose tokens the prompt holds, in
    order.
    """

    row: int
    location: str
    prompt: Tokens
    response: Tokens | None
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
    examples: Sequence[Example]
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


@dataclass(frozen=True, slots=True)
class Split:
    """Files of rows, `key` of the plan, and what decides the examples that they hold.

    A prompt longer than `data.max_length` tokens is dealt with as `data.truncation` says: "delete"
    leaves the row out, "left" and "right" drop tokens on that side, "error" refuses the run. A
    response longer than `max_completion_length` tokens loses its end, the end of turn included.
    Where `server` has several teachers, each row names its own. Of each file `data.max_bad_rows`
    may be left out. With `needs_responses` every row has to have one.
    """

    sources: tuple[DataSource, ...]
    data: DataPlan
    max_completion_length: int
    key: str = "data.train"
    needs_responses: bool = False
    server: TeacherServer | None = None


def load_examples(
    split: Split,
    chat: "Chat",
    keep: Callable[[Iterator[Example]], Sequence[Example]] = tuple,
) -> Examples:
    """Read and tokenise every row of the split, which `keep` takes one after the other.

    Raises UserError: GK469 to GK487 as `read_items`, `read_row` and `tokenise` say, GK476 for a
    prompt that is too long or where all are left out (also all of a file that has a weight), GK478
    for a row without a response where the split needs it, GK489 for a prompt with images that would
    be cut.
    """
    tally = _Tally()
    examples = keep(_taken(split, chat, tally))
    if tally.deleted_lengths and not examples:
        raise all_too_long(tally.deleted_lengths, split.key, split.data)
    if split.data.weights and split.key == "data.train" and 0 in tally.file_sizes:
        place = tally.file_sizes.index(0)
        raise no_row(split.sources[place], f"{split.key}[{place}]")
    return Examples(
        split.key,
        examples,
        len(tally.deleted_lengths),
        tally.num_truncated,
        tally.num_cut,
        tally.longest,
        tuple(tally.file_sizes),
        tuple(tally.left_out),
    )


@dataclass(slots=True)
class _Tally:
    """What became of the rows so far; `deleted_lengths` are of the prompts that were left out."""

    file_sizes: list[int] = field(default_factory=list)
    deleted_lengths: "array[int]" = field(default_factory=lambda: array("q"))
    longest: tuple[int, str] | None = None
    left_out: list[Diagnostic] = field(default_factory=list)
    num_read: int = 0
    num_truncated: int = 0
    num_cut: int = 0


def _taken(split: Split, chat: "Chat", tally: _Tally) -> Iterator[Example]:
    for i, source in enumerate(split.sources):
        key, bad = f"{split.key}[{i}]", BadRows(split.data.max_bad_rows)
        tally.file_sizes.append(0)
        for index, item in enumerate(read_items(source, key), start=tally.num_read):
            tally.num_read = index + 1
            try:
                row = read_row(item, key, *teacher_column(split.server))
                whole = tokenise(row, chat, key)
            except UserError as refusal:
                bad.leave_out(refusal)
                continue
            example = _fitted(index, row, whole, key, split, tally)
            if example is not None:
                tally.file_sizes[-1] += 1
                yield example
        tally.left_out += bad.refusals


def _fitted(
    index: int, row: Row, whole: TokenisedRow, key: str, split: Split, tally: _Tally
) -> Example | None:
    """The row within the split's limits, or None where it is left out."""
    if split.needs_responses and whole.response is None:
        raise no_response(row, key)
    prompt = fit_prompt(whole, row, split.data)
    if prompt != whole.prompt:
        found = (len(whole.prompt), row.location)
        tally.longest = found if tally.longest is None else max(tally.longest, found)
    if prompt is None:
        tally.deleted_lengths.append(len(whole.prompt))
        return None
    response = whole.response and whole.response[: split.max_completion_length]
    tally.num_truncated += prompt != whole.prompt
    tally.num_cut += response != whole.response
    return Example(index, row.location, prompt, response, whole.question, row.teacher, whole.shown)


def teacher_column(server: TeacherServer | None) -> tuple[str | None, Sequence[str]]:
    """The column that names a row's teacher, and what it may hold."""
    return (None, ()) if server is None else (server.column, server.values)


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
