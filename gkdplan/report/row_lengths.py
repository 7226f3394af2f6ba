"""What `gkdplan check --data` prints of the rows, and its JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from gkdplan.runplan.row_lengths import PERCENTS, SplitLengths

NUM_NAMED = 5
"""Bad rows that are named, of each split."""
_BAR = "#"


def row_lengths(splits: Sequence[SplitLengths], width: int = 80) -> str:
    """A table of lengths, a histogram and the losses of each split."""
    return "\n\n".join("\n".join(_split(split, width)) for split in splits)


def row_lengths_json(splits: Sequence[SplitLengths]) -> list[dict[str, Any]]:
    """As JSON values; a bad row is its code and its message."""
    return [
        {
            **asdict(split),
            "percents": list(PERCENTS),
            "bad_rows": [{"code": d.code, "message": d.message} for d in split.bad_rows],
        }
        for split in splits
    ]


def _split(split: SplitLengths, width: int) -> Iterator[str]:
    yield f"{split.key}: {split.num_taken:,} rows are taken of {split.num_rows:,} that can be used"
    yield f"{'tokens':<12}{''.join(f'{_column(percent):>10}' for percent in PERCENTS)}"
    for name, lengths in (("prompts", split.prompts), ("responses", split.responses)):
        yield f"{name:<12}{''.join(f'{length:>10,}' for length in lengths.at_percent)}"
    yield from _histogram(split, width)
    for count, what in _losses(split):
        if count:
            yield f"{count:>9,}  {what}"
    for found in split.bad_rows[:NUM_NAMED]:
        yield f"{found.code}: {found.message}"


def _column(percent: int) -> str:
    return {50: "median", 100: "longest"}.get(percent, f"{percent}%")


def _histogram(split: SplitLengths, width: int) -> Iterator[str]:
    bins, most = split.totals, max(split.totals.counts)
    if not most:
        return
    yield "tokens of a row that is taken, and how many rows have so many"
    for index, count in enumerate(bins.counts):
        label = f"{index * bins.width + 1:>7,} to {(index + 1) * bins.width:>7,}  {count:>9,}  "
        room = width - len(label)
        yield f"{label}{_BAR * (-(-count * room // most))}".rstrip()


def _losses(split: SplitLengths) -> Iterator[tuple[int, str]]:
    yield len(split.bad_rows), "rows cannot be used"
    yield split.num_long, "prompts are longer than `data.max_length`"
    cut = f"responses lose {split.num_tokens_cut:,} tokens at `generation.max_completion_length`"
    yield split.num_cut, cut
    yield split.num_unanswered, "rows have no response"
    yield split.num_empty, "responses are empty but for their end"
    yield split.num_unfetched, "rows are not counted: their images were not fetched"
    yield split.num_repeated, "rows are the same tokens as one before"
