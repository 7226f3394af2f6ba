"""Which rows each step, rank and micro-batch learns from: pure, and the same in every layout."""

import random
from collections.abc import Sequence
from functools import lru_cache

from gkdplan.diagnostics import UserError, error


def require_global_batch(num_rows: int, global_rows: int) -> None:
    """Raise UserError (GK479) where the rows do not make one global batch."""
    if num_rows < global_rows:
        raise UserError(
            error(
                "GK479",
                f"{num_rows:,} usable rows do not make one global batch of {global_rows:,}",
                "batch.global",
                help=("lower `batch.global`, raise `data.max_length`, or add rows",),
            )
        )


def rows_of_step(
    num_rows: int, global_rows: int, step: int, seed: int, shuffle: bool
) -> tuple[int, ...]:
    """The rows of step `step` (counted from 1): a pure function, so resuming needs no state.

    An epoch is num_rows // global_rows steps over a permutation of (seed, epoch); the rows that
    make no whole global batch sit that epoch out. Without `shuffle` the permutation is the file's
    order. Where rows were left out, epochs are shorter, and the steps of the plan take more of
    them.
    """
    epoch, position = divmod(step - 1, num_rows // global_rows)
    order = _permutation(num_rows, seed, epoch) if shuffle else range(num_rows)
    return tuple(order[position * global_rows : (position + 1) * global_rows])


@lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    """Python's shuffle under the seed "SEED:EPOCH": the same on every rank and machine."""
    order = list(range(num_rows))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return tuple(order)


def rows_of_rank(
    indices: Sequence[int], data_rank: int, data_size: int, micro_rows: int
) -> list[tuple[int, ...]]:
    """The micro-batches of one data rank, in order.

    The global batch is cut into micro-batches before they are dealt out in turn to the data ranks,
    so a micro-batch holds the same rows whatever the data degree.
    """
    assert len(indices) % (data_size * micro_rows) == 0, "the compiler checks this"
    starts = range(data_rank * micro_rows, len(indices), data_size * micro_rows)
    return [tuple(indices[start : start + micro_rows]) for start in starts]
