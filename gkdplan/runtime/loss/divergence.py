"""The core of the loss: weighted divergences of rows of logits, and their gradient beside them.

Legend: N rows, B rows of one block, V true vocabulary entries of this rank, k sums over V.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gkdplan.runtime.loss.distribution import Pair, blocks_of, buffers_for
from gkdplan.runtime.loss.rules import Rule, rule_for
from gkdplan.runtime.loss.vocabulary import VocabularyShard


def weighted_divergence(
    student_NV: Tensor,
    teacher_NV: Tensor,
    weights_N: Tensor,
    gradient_NV: Tensor | None,
    *,
    beta: float,
    temperature: float,
    shard: VocabularyShard,
) -> Tensor:
    """The sum over rows of weight * divergence, a float64 scalar.

    `gradient_NV`, where given, receives the gradient of that sum wrt the student's logits; it may
    be `student_NV` itself. A row of weight 0 counts 0 and has gradient 0, whatever it holds. What
    rounding leaves below 0 of a divergence (1e-7 in float32) counts 0.
    Ranks of a tensor group exchange float64 numbers: a gather of 4 a row for a KL divergence, else
    a gather of 2 and a sum of 2.
    """
    if len(weights_N) == 0:
        return weights_N.new_zeros((), dtype=torch.float64)
    buffers = buffers_for(4, student_NV, teacher_NV)
    logits = _Logits(student_NV, teacher_NV, weights_N, gradient_NV, temperature, buffers)
    rule = rule_for(beta)
    sums = _alone(rule, logits) if shard.size == 1 else _sharded(rule, logits, shard)
    ignored_N = weights_N == 0
    if gradient_NV is not None:
        gradient_NV.index_fill_(0, ignored_N.nonzero()[:, 0], 0.0)
    losses_N = rule.loss(sums).clamp(min=0.0).masked_fill(ignored_N, 0.0)
    return (losses_N * weights_N).sum()


@dataclass(frozen=True, slots=True)
class _Logits:
    student_NV: Tensor
    teacher_NV: Tensor
    weights_N: Tensor
    gradient_NV: Tensor | None
    temperature: float
    buffers: Tensor

    def blocks(self) -> list[slice]:
        return blocks_of(len(self.weights_N), self.weights_N.device)

    def pair(self, rows: slice) -> Pair:
        student_BV, teacher_BV = self.student_NV[rows], self.teacher_NV[rows]
        return Pair(student_BV, teacher_BV, self.temperature, self.buffers[:, : len(student_BV)])

    def store(self, rows: slice, gradient_BV: Tensor) -> None:
        assert self.gradient_NV is not None
        scales_B1 = (self.weights_N[rows, None] / self.temperature).to(gradient_BV.dtype)
        torch.mul(gradient_BV, scales_B1, out=self.gradient_NV[rows])


def _alone(rule: Rule, logits: _Logits) -> Tensor:
    """The sums [k, N]; the gradient is written while a block is in the cache."""

    def measure(rows: slice) -> Tensor:
        pair = logits.pair(rows)
        terms_BV, sums = rule.measure(pair)
        if logits.gradient_NV is not None:
            logits.store(rows, rule.gradient(pair, terms_BV, sums))
        return sums

    return torch.cat([measure(rows) for rows in logits.blocks()], dim=1)


def _sharded(rule: Rule, logits: _Logits, shard: VocabularyShard) -> Tensor:
    """The sums [k, N] over all ranks; the gradient takes one more pass over the logits."""

    def pair_of_shard(rows: slice) -> Pair:
        pair = logits.pair(rows)
        pair.allow_masked_rows()
        return pair

    def store(rows: slice) -> None:
        pair = pair_of_shard(rows)
        pair.rescale(log_totals[:, rows])
        terms_BV, _ = rule.measure(pair)
        logits.store(rows, rule.gradient(pair, terms_BV, sums[:, rows]))

    def over_pairs(function: Callable[[slice, Pair], Tensor]) -> Tensor:
        return torch.cat([function(rows, pair_of_shard(rows)) for rows in logits.blocks()], dim=1)

    log_totals, sums = rule.collect(over_pairs, shard)
    for rows in logits.blocks() if logits.gradient_NV is not None else ():
        store(rows)
    return sums
