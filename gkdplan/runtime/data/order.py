"""Which rows each step, rank and micro-batch learns from: pure, and the same in every layout."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.mixing import rows_of_files


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


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a run's rows, which `seed` and the number of an epoch decide.

    Rows are numbered through the files, which hold `file_sizes` of them. Without `shuffle` they
    come as they stand. With `weights` an epoch has as many rows as without, in their proportion
    over the files, each of which is read round after round.
    """

    file_sizes: tuple[int, ...]
    seed: int
    shuffle: bool
    weights: tuple[float, ...] | None = None

    @property
    def num_rows(self) -> int:
        return sum(self.file_sizes)

    def rows_of_step(self, global_rows: int, step: int) -> tuple[int, ...]:
        """The rows of step `step` (counted from 1): a pure function, so resuming needs no state.

        An epoch is num_rows // global_rows steps over a permutation of (seed, epoch); the rows that
        make no whole global batch sit that epoch out. Where rows were left out, epochs are shorter,
        and the steps of the plan take more of them.
        """
        num_steps = self.num_rows // global_rows
        epoch, position = divmod(step - 1, num_steps)
        order = _epoch(self, epoch, num_steps * global_rows)
        return tuple(order[position * global_rows : (position + 1) * global_rows])


@lru_cache(maxsize=2)
def _epoch(order: Order, epoch: int, num_taken: int) -> Sequence[int]:
    """The rows of an epoch, of which `num_taken` are taken."""
    if order.weights is None:
        rows = range(order.num_rows)
        return _shuffled(rows, f"{order.seed}:{epoch}") if order.shuffle else rows
    return _mixed_epoch(order, order.weights, epoch, num_taken)


def _mixed_epoch(
    order: Order, weights: Sequence[float], epoch: int, num_taken: int
) -> Sequence[int]:
    """From each file the rows that follow on those of earlier epochs; unshuffled, each file's are
    spread evenly."""
    shares = rows_of_files(weights, num_taken)
    placed = []
    for file, (size, share) in enumerate(zip(order.file_sizes, shares, strict=True)):
        begin = sum(order.file_sizes[:file])
        for index in range(share):
            turn, place = divmod(epoch * share + index, size)
            row = _round(order, file, turn)[place]
            placed.append(((index + 0.5) / share, begin + row))
    rows = [row for _, row in sorted(placed)]
    return _shuffled(rows, f"{order.seed}:{epoch}") if order.shuffle else rows


@lru_cache(maxsize=2)
def _round(order: Order, file: int, turn: int) -> Sequence[int]:
    """The rows of a file, each once, counted from its own first."""
    rows = range(order.file_sizes[file])
    return _shuffled(rows, f"{order.seed}:{turn}:{file}") if order.shuffle else rows


def _shuffled(rows: Sequence[int], seed: str) -> Sequence[int]:
    """Python's shuffle under a seed of text: the same on every rank and machine."""
    order = list(rows)
    random.Random(seed).shuffle(order)
    return order


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
