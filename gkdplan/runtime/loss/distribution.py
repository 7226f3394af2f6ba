"""The softmax of one block of rows over the vocabulary entries of one rank, kept accurate.

Legend: B rows of the block, V vocabulary entries of this rank. Row statistics are float64, so that
a large logit costs no digits; the [B, V] tensors are float32 (float64 for float64 logits).
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

LOG_PROB_FLOOR = -1e4
"""The log-probability of an entry whose logit is -inf."""

BLOCK_ROWS = {"cpu": 8, "cuda": 64}
"""Rows worked on at one time by device: few enough for a CPU's cache, enough to fill a GPU."""


def blocks_of(num_rows: int, device: torch.device) -> list[slice]:
    """The rows in blocks of BLOCK_ROWS at most, none larger than another by more than one."""
    num_blocks = math.ceil(num_rows / BLOCK_ROWS[device.type])
    edges = [i * num_rows // num_blocks for i in range(num_blocks + 1)] if num_blocks else []
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def buffers_for(num_buffers: int, *logits_NV: Tensor) -> Tensor:
    """[num_buffers, B, V] in the working dtype of the logits, which have equal shapes."""
    num_rows, num_entries = logits_NV[0].shape
    block_rows = min(BLOCK_ROWS[logits_NV[0].device.type], num_rows)
    shape = (num_buffers, block_rows, num_entries)
    return logits_NV[0].new_empty(shape, dtype=working_dtype(*logits_NV))


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 where any of the tensors is."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


class Distribution:
    """softmax(logits_BV / temperature), in two buffers [B, V] that are given.

    `shifted_BV` is (logits - their maximum) / temperature and `exps_BV` exp of it, which `scale_B`
    makes probabilities; `top_log_prob_B` is the log-probability of the maximum (so log prob =
    shifted + top_log_prob) and `log_mass_B` the log of the sum of exp(logits / temperature).
    """

    def __init__(self, logits_BV: Tensor, temperature: float, buffers: Sequence[Tensor]) -> None:
        self.shifted_BV, self.exps_BV = buffers
        top_B = row_max(logits_BV).to(self.shifted_BV.dtype)
        self._masked_B = top_B == -torch.inf
        top_B1 = top_B.masked_fill(self._masked_B, 0.0)[:, None]
        torch.sub(logits_BV, top_B1, out=self.shifted_BV)
        if temperature != 1.0:
            self.shifted_BV.div_(temperature)
        torch.exp(self.shifted_BV, out=self.exps_BV)
        # Not torch.softmax, whose sum is off by 5e-6 at 150,000 float32 entries.
        total_B = row_sums(self.exps_BV)
        self.scale_B = total_B.reciprocal()
        self.top_log_prob_B = total_B.log().neg()
        self.log_mass_B = top_B.double() / temperature - self.top_log_prob_B

    def normalise_(self) -> Tensor:
        """The probabilities [B, V], in the place of `exps_BV`; once."""
        return self.exps_BV.mul_(self.scale_B.to(self.exps_BV.dtype)[:, None])

    def allow_masked_rows(self) -> None:
        """Give a row whose entries are all -inf no mass: another rank may hold all of it."""
        self.scale_B.masked_fill_(self._masked_B, 0.0)
        self.top_log_prob_B.masked_fill_(self._masked_B, 0.0)
        self.log_mass_B.masked_fill_(self._masked_B, -torch.inf)

    def rescale(self, log_total_B: Tensor) -> None:
        """Normalise over all ranks, whose log mass is `log_total_B`."""
        log_share_B = self.log_mass_B - log_total_B
        self.scale_B = self.scale_B * log_share_B.exp()
        self.top_log_prob_B = self.top_log_prob_B + log_share_B.clamp(min=LOG_PROB_FLOOR)


class Pair:
    """Student and teacher of one block of rows, in four buffers [B, V] that are given."""

    def __init__(
        self, student_BV: Tensor, teacher_BV: Tensor, temperature: float, buffers: Sequence[Tensor]
    ) -> None:
        self.student = Distribution(student_BV, temperature, buffers[:2])
        self.teacher = Distribution(teacher_BV, temperature, buffers[2:])

    def log_masses(self) -> Tensor:
        """[2, B]: the student's, the teacher's."""
        return torch.stack([self.student.log_mass_B, self.teacher.log_mass_B])

    def allow_masked_rows(self) -> None:
        self.student.allow_masked_rows()
        self.teacher.allow_masked_rows()

    def rescale(self, log_totals: Tensor) -> None:
        """Normalise both over all ranks; `log_totals` is [2, B]."""
        self.student.rescale(log_totals[0])
        self.teacher.rescale(log_totals[1])


def row_sums(tensor_BV: Tensor) -> Tensor:
    """[B], float64. torch.sum adds a row up in pairs; a compiled loop adds entry after entry, in
    which float32 loses 5e-6 of a long row."""
    if torch.compiler.is_compiling():
        return tensor_BV.double().sum(dim=1)
    return tensor_BV.sum(dim=1).double()


def row_max(tensor_BV: Tensor) -> Tensor:
    """[B], -inf where a rank holds only padding and V is 0."""
    if tensor_BV.shape[1] == 0:
        return tensor_BV.new_full((len(tensor_BV),), -torch.inf)
    return tensor_BV.amax(dim=1)
