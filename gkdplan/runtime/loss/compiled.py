"""The compiled backend: the functions of blocks.py by torch.compile, a handful of loops where eager
makes some twenty passes over a block.

A function is compiled once a rule and dtype: the sizes of a block, beta and the temperature are
variables of what is compiled. Only a lone row (N = 1) is a shape of its own.

Legend: N rows, B rows of one block, V true vocabulary entries of this rank, k sums over V.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from gkdplan.runtime.loss import blocks, eager
from gkdplan.runtime.loss.blocks import Block, BlockFunction
from gkdplan.runtime.loss.distribution import BLOCK_ROWS, blocks_of, working_dtype
from gkdplan.runtime.loss.eager import BlockMeasures, EagerMeasures
from gkdplan.runtime.loss.rows import Rows
from gkdplan.runtime.loss.rules import Rule

MAX_GRAPHS = 64
"""Of one function: three rules, the dtypes of both sides, with and without gradient and labels."""


def cpp_compiler() -> str:
    """What torch.compile calls for a CPU."""
    return os.environ.get("CXX", "g++")


def has_cpp_compiler() -> bool:
    return shutil.which(cpp_compiler()) is not None


def check_compiler(device: torch.device) -> None:
    """Raise ValueError where torch.compile has no C++ compiler for a CPU."""
    if device.type == "cpu" and not has_cpp_compiler():
        raise ValueError(f"the compiled backend needs a C++ compiler, but has no {cpp_compiler()}")


def measures(rule: Rule, rows: Rows) -> BlockMeasures:
    """There is nothing to compile for a rank whose entries are all padding."""
    has_entries = rows.student_NV.shape[1] > 0
    return CompiledMeasures(rule, rows) if has_entries else EagerMeasures(rule, rows)


WRITE_GRADIENT = (blocks.alone, blocks.write_gradient)


class CompiledMeasures(BlockMeasures):
    """What a function puts into its buffers stays inside the compiled loops.

    The gradient of logits written in place comes in a buffer, since they are read again after it is
    written; its strides are theirs, so that the graph is the same. Row statistics come as copies,
    since a view would tie the graph to the number of rows that it is a view of.
    """

    def __init__(self, rule: Rule, rows: Rows) -> None:
        super().__init__(rule, rows)
        self._gradient_BV: Tensor | None = None
        gradient_NV = rows.gradient_NV
        if gradient_NV is not None and gradient_NV.data_ptr() == rows.student_NV.data_ptr():
            size = min(BLOCK_ROWS[gradient_NV.device.type], len(gradient_NV)), gradient_NV.shape[1]
            self._gradient_BV = gradient_NV.new_empty_strided(size, gradient_NV.stride())

    def run(self, function: BlockFunction, at: slice, *statistics: Tensor) -> Tensor:
        block = self.rows.block(at)
        labels = None if block.labels is None else block.labels.clone()
        gradient_BV = block.gradient_BV
        if self._gradient_BV is not None:
            gradient_BV = self._gradient_BV[: len(block.student_BV)]
        apart = replace(block, gradient_BV=gradient_BV, labels=labels)
        copies = [statistic.clone() for statistic in statistics]
        result = _run(_compiled(function), self.rule, apart, *copies)
        if self._gradient_BV is not None and function in WRITE_GRADIENT:
            block.student_BV.copy_(gradient_BV)
        return result


def log_masses(logits_NV: Tensor) -> Tensor:
    """log sum exp over this rank's entries [N], float64; -inf where there are none."""
    if logits_NV.shape[1] == 0:
        return eager.log_masses(logits_NV)
    found = [logits_NV.new_zeros(0, dtype=torch.float64)]
    for at in blocks_of(len(logits_NV), logits_NV.device):
        found.append(_run(_compiled_log_masses(), logits_NV[at]))
    return torch.cat(found)


def _run(compiled: Callable[..., Tensor], *arguments: object) -> Tensor:
    """Unseen by a meter of live bytes, under whose dispatch torch.compile does not run."""
    with torch._dynamo.config.patch(recompile_limit=MAX_GRAPHS), _disable_current_modes():
        return compiled(*arguments)


@cache
def _compiled(function: BlockFunction) -> Callable[..., Tensor]:
    def of_block(rule: Rule, block: Block, *statistics: Tensor) -> Tensor:
        dtype = working_dtype(block.student_BV, block.teacher_BV)
        buffers = [torch.empty_like(block.student_BV, dtype=dtype) for _ in range(4)]
        return function(rule, block, buffers, *statistics)

    compiled: Callable[..., Tensor] = torch.compile(of_block, dynamic=True, fullgraph=True)
    return compiled


@cache
def _compiled_log_masses() -> Callable[[Tensor], Tensor]:
    def of_block(logits_BV: Tensor) -> Tensor:
        buffers = [torch.empty_like(logits_BV, dtype=working_dtype(logits_BV)) for _ in range(2)]
        return blocks.log_masses(logits_BV, buffers)

    compiled: Callable[..., Tensor] = torch.compile(of_block, dynamic=True, fullgraph=True)
    return compiled
