"""Rows of logits on both sides, and their divergences over the vocabulary of all ranks.

Legend: N rows, V true vocabulary entries of this rank, k sums over V.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gkdplan.runtime.loss.blocks import Block
from gkdplan.runtime.loss.cross_entropy import Labels
from gkdplan.runtime.loss.distribution import working_dtype
from gkdplan.runtime.loss.rules import Measures, Rule
from gkdplan.runtime.loss.vocabulary import VocabularyShard


@dataclass(frozen=True, slots=True)
class Rows:
    """Logits [N, V] of both sides. `gradient_NV` receives the gradient of the sum of weight *
    divergence wrt the student's logits, and may be these; that of the cross-entropy of the labels
    is added there."""

    student_NV: Tensor
    teacher_NV: Tensor
    weights_N: Tensor
    gradient_NV: Tensor | None
    temperature: float
    labels: Labels | None = None

    def block(self, at: slice) -> Block:
        """Some of the rows."""
        dtype = working_dtype(self.student_NV, self.teacher_NV)
        return Block(
            self.student_NV[at],
            self.teacher_NV[at],
            (self.weights_N[at, None] / self.temperature).to(dtype),
            self.temperature,
            None if self.gradient_NV is None else self.gradient_NV[at],
            None if self.labels is None else self.labels.of(at),
        )


class RowMeasures(Measures, Protocol):
    """How a backend measures rows by a rule, and writes their gradient where there is a place.

    What it writes into rows of weight 0 is not used.
    """

    def alone(self) -> Tensor:
        """The sums [k, N] of rows that one rank holds whole; their gradient is written."""
        ...

    def write_gradient(self, log_totals: Tensor, sums: Tensor) -> None:
        """From log masses [2, N] (student, teacher) and sums [k, N] over all ranks."""
        ...


def divergences(
    rule: Rule, measures: RowMeasures, shard: VocabularyShard, *, with_gradient: bool
) -> Tensor:
    """The divergences [N], float64. Over a tensor group the gradient takes one more pass."""
    if shard.size == 1:
        return rule.loss(measures.alone())
    log_totals, sums = rule.collect(measures, shard)
    if with_gradient:
        measures.write_gradient(log_totals, sums)
    return rule.loss(sums)
