"""What the rows of a split are as tokens: what `gkdplan check --data` says of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from gkdplan.diagnostics import Diagnostic

PERCENTS = (50, 90, 99, 100)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens: the least number that so many percent of the rows do not exceed (the nearest rank),
    for each of `PERCENTS`; zeros without rows."""

    at_percent: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Lengths":
        rising = sorted(lengths)
        ranks = [max(1, -(-percent * len(rising) // 100)) for percent in PERCENTS]
        return cls(tuple(rising[rank - 1] if rising else 0 for rank in ranks))


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts` of rows by tokens: the first up to `width` of them, the next up to twice as many."""

    width: int
    counts: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], num_bins: int = 10) -> "Histogram":
        width = max(1, -(-max(lengths, default=1) // num_bins))
        counts = [0] * num_bins
        for length in lengths:
            counts[max(0, length - 1) // width] += 1
        return cls(width, tuple(counts))


@dataclass(frozen=True, slots=True)
class SplitLengths:
    """The rows of one `key` of the plan, as a run reads them.

    Of `num_rows` that can be used, `num_long` have prompts over `data.max_length`; `num_taken` are
    learnt from. Of responses, `num_cut` lose `num_tokens_cut` tokens, and `num_empty` are nothing
    but their end. `num_repeated` rows are the same tokens as an earlier one. `num_unfetched` rows,
    which are not among the others, show images that were not fetched yet. `prompts` and
    `responses` are lengths before anything is cut, `totals` those of taken rows after it.
    """

    key: str
    num_rows: int
    num_taken: int
    num_long: int
    num_unanswered: int
    num_empty: int
    num_cut: int
    num_tokens_cut: int
    num_repeated: int
    num_unfetched: int
    prompts: Lengths
    responses: Lengths
    totals: Histogram
    bad_rows: tuple[Diagnostic, ...]
