"""The eager backend: blocks of rows that fit into a cache, one after the other.

Legend: N rows, B rows of one block, V true vocabulary entries of this rank, k sums over V.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gkdplan.runtime.loss import blocks
from gkdplan.runtime.loss.blocks import BlockFunction
from gkdplan.runtime.loss.distribution import blocks_of, buffers_for
from gkdplan.runtime.loss.rows import Rows
from gkdplan.runtime.loss.rules import Rule


def log_masses(logits_NV: Tensor) -> Tensor:
    """log sum exp over this rank's entries [N], float64; -inf where there are none."""
    buffers = buffers_for(2, logits_NV)
    found = [logits_NV.new_zeros(0, dtype=torch.float64)]
    for at in blocks_of(len(logits_NV), logits_NV.device):
        logits_BV = logits_NV[at]
        found.append(blocks.log_masses(logits_BV, buffers[:, : len(logits_BV)].unbind()))
    return torch.cat(found)


class BlockMeasures(ABC):
    """`RowMeasures` by the functions of blocks.py; a backend says how one of them is run."""

    def __init__(self, rule: Rule, rows: Rows) -> None:
        self.rule = rule
        self.rows = rows

    @abstractmethod
    def run(self, function: BlockFunction, at: slice, *statistics: Tensor) -> Tensor:
        """`function` of the rule, the block `at`, buffers and row statistics."""

    def alone(self) -> Tensor:
        return self._over_blocks(blocks.alone)

    def statistics(self) -> Tensor:
        return self._over_blocks(blocks.statistics)

    def sums(self, log_totals: Tensor) -> Tensor:
        return self._over_blocks(blocks.sums_of_shard, log_totals)

    def write_gradient(self, log_totals: Tensor, sums: Tensor) -> None:
        self._over_blocks(blocks.write_gradient, log_totals, sums)

    def _over_blocks(self, function: BlockFunction, *statistics: Tensor) -> Tensor:
        """The [k, B] of every block side by side: [k, N]; so are the statistics cut."""
        device = self.rows.weights_N.device
        results = [
            self.run(function, at, *(statistic[:, at] for statistic in statistics))
            for at in blocks_of(len(self.rows.weights_N), device)
        ]
        return torch.cat(results, dim=1)


class EagerMeasures(BlockMeasures):
    """Op by op, in the same four buffers [B, V] for all blocks."""

    def __init__(self, rule: Rule, rows: Rows) -> None:
        super().__init__(rule, rows)
        self._buffers = buffers_for(4, rows.student_NV, rows.teacher_NV)

    def run(self, function: BlockFunction, at: slice, *statistics: Tensor) -> Tensor:
        block = self.rows.block(at)
        buffers = self._buffers[:, : len(block.student_BV)].unbind()
        return function(self.rule, block, buffers, *statistics)
