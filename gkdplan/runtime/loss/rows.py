"""Rows of logits on both sides: their divergences, and the student's gradient beside them.

Legend: N rows, B rows of one block, V true vocabulary entries of this rank, k sums over V.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gkdplan.runtime.loss.cross_entropy import CrossEntropy
from gkdplan.runtime.loss.distribution import Pair, blocks_of, buffers_for
from gkdplan.runtime.loss.rules import Rule
from gkdplan.runtime.loss.vocabulary import VocabularyShard


def divergences(rule: Rule, rows: "Rows", shard: VocabularyShard) -> Tensor:
    """The divergences [N], float64; the gradient is written where there is a place for it."""
    buffers = buffers_for(4, rows.student_NV, rows.teacher_NV)
    blocks = _Blocks(rows, buffers)
    sums = _alone(rule, blocks) if shard.size == 1 else _sharded(rule, blocks, shard)
    return rule.loss(sums)


@dataclass(frozen=True, slots=True)
class Rows:
    """Logits [N, V] of both sides. `gradient_NV` receives the gradient of the sum of weight *
    divergence wrt the student's logits, and may be these; `cross_entropy` adds its own there."""

    student_NV: Tensor
    teacher_NV: Tensor
    weights_N: Tensor
    gradient_NV: Tensor | None
    temperature: float
    cross_entropy: CrossEntropy | None = None


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The rows block by block, in four buffers [4, B, V]."""

    rows: Rows
    buffers: Tensor

    @property
    def has_gradient(self) -> bool:
        return self.rows.gradient_NV is not None

    def slices(self) -> list[slice]:
        return blocks_of(len(self.rows.weights_N), self.rows.weights_N.device)

    def pair(self, block: slice) -> Pair:
        student_BV, teacher_BV = self.rows.student_NV[block], self.rows.teacher_NV[block]
        buffers = self.buffers[:, : len(student_BV)]
        return Pair(student_BV, teacher_BV, self.rows.temperature, buffers)

    def store(self, block: slice, gradient_BV: Tensor) -> None:
        """A rule leaves its gradient in a buffer of the student, so that the teacher's are free."""
        rows = self.rows
        assert rows.gradient_NV is not None
        scales_B1 = (rows.weights_N[block, None] / rows.temperature).to(gradient_BV.dtype)
        if rows.cross_entropy is None:
            torch.mul(gradient_BV, scales_B1, out=rows.gradient_NV[block])
        else:
            added_BV = rows.cross_entropy.gradient(block, self.buffers[2:, : len(gradient_BV)])
            torch.addcmul(added_BV, gradient_BV, scales_B1, out=rows.gradient_NV[block])


def _alone(rule: Rule, blocks: _Blocks) -> Tensor:
    """The sums [k, N]; the gradient is written while a block is in the cache."""

    def measure(block: slice) -> Tensor:
        pair = blocks.pair(block)
        terms_BV, sums = rule.measure(pair)
        if blocks.has_gradient:
            blocks.store(block, rule.gradient(pair, terms_BV, sums))
        return sums

    return torch.cat([measure(block) for block in blocks.slices()], dim=1)


def _sharded(rule: Rule, blocks: _Blocks, shard: VocabularyShard) -> Tensor:
    """The sums [k, N] over all ranks; the gradient takes one more pass over the logits."""

    def pair_of_shard(block: slice) -> Pair:
        pair = blocks.pair(block)
        pair.allow_masked_rows()
        return pair

    def store(block: slice) -> None:
        pair = pair_of_shard(block)
        pair.rescale(log_totals[:, block])
        terms_BV, _ = rule.measure(pair)
        blocks.store(block, rule.gradient(pair, terms_BV, sums[:, block]))

    def over_pairs(function: Callable[[slice, Pair], Tensor]) -> Tensor:
        return torch.cat([function(b, pair_of_shard(b)) for b in blocks.slices()], dim=1)

    log_totals, sums = rule.collect(over_pairs, shard)
    for block in blocks.slices() if blocks.has_gradient else ():
        store(block)
    return sums
