"""The eager backend: the rules as they stand, op by op, on blocks of rows that fit into a cache.

Legend: N rows, B rows of one block, V true vocabulary entries of this rank, k sums over V.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gkdplan.runtime.loss.distribution import Distribution, Pair, blocks_of, buffers_for
from gkdplan.runtime.loss.rows import Rows
from gkdplan.runtime.loss.rules import Rule


def log_masses(logits_NV: Tensor) -> Tensor:
    """log sum exp over this rank's entries [N], float64; -inf where there are none."""
    buffers = buffers_for(2, logits_NV)
    found = [logits_NV.new_zeros(0, dtype=torch.float64)]
    for block in blocks_of(len(logits_NV), logits_NV.device):
        logits_BV = logits_NV[block]
        distribution = Distribution(logits_BV, 1.0, buffers[:, : len(logits_BV)])
        distribution.allow_masked_rows()
        found.append(distribution.log_mass_B)
    return torch.cat(found)


class EagerMeasures:
    """Works in four buffers [4, B, V] for all blocks."""

    def __init__(self, rule: Rule, rows: Rows) -> None:
        self._rule = rule
        self._rows = rows
        self._buffers = buffers_for(4, rows.student_NV, rows.teacher_NV)

    def alone(self) -> Tensor:
        """The gradient is written while a block is in the cache."""

        def measure(block: slice) -> Tensor:
            pair = self._pair(block)
            terms_BV, sums = self._rule.measure(pair)
            if self._rows.gradient_NV is not None:
                self._store(block, self._rule.gradient(pair, terms_BV, sums))
            return sums

        return self._over_blocks(measure)

    def statistics(self) -> Tensor:
        return self._over_blocks(lambda block: self._rule.statistics(self._pair_of_shard(block)))

    def sums(self, log_totals: Tensor) -> Tensor:
        return self._over_blocks(lambda block: self._measure(block, log_totals)[2])

    def write_gradient(self, log_totals: Tensor, sums: Tensor) -> None:
        for block in self._blocks():
            pair, terms_BV, _ = self._measure(block, log_totals)
            self._store(block, self._rule.gradient(pair, terms_BV, sums[:, block]))

    def _measure(self, block: slice, log_totals: Tensor) -> tuple[Pair, Tensor, Tensor]:
        pair = self._pair_of_shard(block)
        pair.rescale(log_totals[:, block])
        return pair, *self._rule.measure(pair)

    def _pair_of_shard(self, block: slice) -> Pair:
        pair = self._pair(block)
        pair.allow_masked_rows()
        return pair

    def _pair(self, block: slice) -> Pair:
        student_BV, teacher_BV = self._rows.student_NV[block], self._rows.teacher_NV[block]
        buffers = self._buffers[:, : len(student_BV)]
        return Pair(student_BV, teacher_BV, self._rows.temperature, buffers)

    def _store(self, block: slice, gradient_BV: Tensor) -> None:
        """A rule leaves its gradient in a buffer of the student, so that the teacher's are free."""
        rows = self._rows
        assert rows.gradient_NV is not None
        scales_B1 = (rows.weights_N[block, None] / rows.temperature).to(gradient_BV.dtype)
        if rows.cross_entropy is None:
            torch.mul(gradient_BV, scales_B1, out=rows.gradient_NV[block])
        else:
            added_BV = rows.cross_entropy.gradient(block, self._buffers[2:, : len(gradient_BV)])
            torch.addcmul(added_BV, gradient_BV, scales_B1, out=rows.gradient_NV[block])

    def _over_blocks(self, function: Callable[[slice], Tensor]) -> Tensor:
        """The [k, B] of every block side by side: [k, N]."""
        return torch.cat([function(block) for block in self._blocks()], dim=1)

    def _blocks(self) -> list[slice]:
        return blocks_of(len(self._rows.weights_N), self._rows.weights_N.device)
