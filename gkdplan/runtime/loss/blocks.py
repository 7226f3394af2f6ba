"""One block of rows by a rule: what eager runs op by op and what the compiled backend compiles.

Legend: B rows of one block, V true vocabulary entries of this rank, k sums over V.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gkdplan.runtime.loss.cross_entropy import Labels, label_gradient
from gkdplan.runtime.loss.distribution import Distribution, Pair
from gkdplan.runtime.loss.rules import Rule

Buffers = Sequence[Tensor]
"""Four [B, V] in the working dtype, which the functions below overwrite."""


@dataclass(frozen=True, slots=True)
class Block:
    """Logits [B, V] of both sides. `gradient_BV`, if any, receives the gradient wrt the student's:
    `scales_B1` (weight / temperature) times the rule's, and that of the labels' cross-entropy."""

    student_BV: Tensor
    teacher_BV: Tensor
    scales_B1: Tensor
    temperature: float
    gradient_BV: Tensor | None
    labels: Labels | None


BlockFunction = Callable[..., Tensor]
"""A function of a rule, a block, buffers and row statistics, [k, B] each: [k, B]."""


def alone(rule: Rule, block: Block, buffers: Buffers) -> Tensor:
    """The sums [k, B] of whole rows; the gradient is written while they are in the cache."""
    pair = Pair(block.student_BV, block.teacher_BV, block.temperature, buffers)
    terms_BV, sums = rule.measure(pair)
    if block.gradient_BV is not None:
        _store(block, rule.gradient(pair, terms_BV, sums), buffers)
    return sums


def statistics(rule: Rule, block: Block, buffers: Buffers) -> Tensor:
    """What a rank says of its part of the rows first [s, B]."""
    return rule.statistics(_pair_of_shard(block, buffers))


def sums_of_shard(rule: Rule, block: Block, buffers: Buffers, log_totals: Tensor) -> Tensor:
    """This rank's share in the sums [k, B], of log masses [2, B] over all ranks."""
    pair = _pair_of_shard(block, buffers)
    pair.rescale(log_totals)
    return rule.measure(pair)[1]


def write_gradient(
    rule: Rule, block: Block, buffers: Buffers, log_totals: Tensor, sums: Tensor
) -> Tensor:
    """From log masses [2, B] and sums [k, B] over all ranks; returns the sums."""
    pair = _pair_of_shard(block, buffers)
    pair.rescale(log_totals)
    terms_BV, _ = rule.measure(pair)
    _store(block, rule.gradient(pair, terms_BV, sums), buffers)
    return sums


def log_masses(logits_BV: Tensor, buffers: Buffers) -> Tensor:
    """log sum exp of the rows [B], float64, in two buffers; -inf where there is no entry."""
    distribution = Distribution(logits_BV, 1.0, buffers)
    distribution.allow_masked_rows()
    return distribution.log_mass_B


def _pair_of_shard(block: Block, buffers: Buffers) -> Pair:
    pair = Pair(block.student_BV, block.teacher_BV, block.temperature, buffers)
    pair.allow_masked_rows()
    return pair


def _store(block: Block, gradient_BV: Tensor, buffers: Buffers) -> None:
    """A rule leaves its gradient in a buffer of the student, so that the teacher's are free."""
    assert block.gradient_BV is not None
    if block.labels is None:
        torch.mul(gradient_BV, block.scales_B1, out=block.gradient_BV)
    else:
        added_BV = label_gradient(block.student_BV, block.labels, buffers[2])
        torch.addcmul(added_BV, gradient_BV, block.scales_B1, out=block.gradient_BV)
