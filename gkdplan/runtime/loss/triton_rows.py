"""The Triton backend: launches of the kernels, and what they read and write a row.

Legend: N rows, V true vocabulary entries of this rank, k sums over V.
"""

from functools import lru_cache

import torch
import triton
from torch import Tensor

from gkdplan.runtime.loss.cross_entropy import Labels
from gkdplan.runtime.loss.distribution import LOG_PROB_FLOOR, working_dtype
from gkdplan.runtime.loss.rows import Rows
from gkdplan.runtime.loss.rules import KL, JensenShannon, Rule
from gkdplan.runtime.loss.triton_kernels import (
    FORWARD_KL,
    JENSEN_SHANNON,
    REVERSE_KL,
    mass_kernel,
    row_kernel,
)

TILE = 4096
"""Entries of the vocabulary that a program works on at one time."""

NUM_WARPS = 8

SMALL = {torch.float32: 0.5, torch.float64: 0.01}
"""Where the series of exp(x) - 1 is as exact as the dtype."""

TRITON_DTYPES = {torch.float32: triton.language.float32, torch.float64: triton.language.float64}


def check_device(device: torch.device) -> None:
    """Raise ValueError where Triton has no compiler for the device, nor its interpreter is on."""
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(f"the triton backend needs a GPU, not the device {device.type}")


def log_masses(logits_NV: Tensor) -> Tensor:
    """log sum exp over this rank's entries [N], float64; -inf where there are none."""
    dtype = working_dtype(logits_NV)
    tops_N, totals_N = logits_NV.new_empty((2, len(logits_NV)), dtype=dtype)
    mass_kernel[(len(logits_NV),)](
        logits_NV,
        tops_N,
        totals_N,
        *logits_NV.stride(),
        logits_NV.shape[1],
        DTYPE=TRITON_DTYPES[dtype],
        TILE=TILE,
        num_warps=NUM_WARPS,
    )
    return tops_N.double() + totals_N.double().log()


class TritonMeasures:
    """One launch for rows that a rank holds whole; over a tensor group one before each exchange."""

    def __init__(self, rule: Rule, rows: Rows) -> None:
        self._rows = rows
        self._is_kl = isinstance(rule, KL)
        self._rule, beta = _rule_and_beta(rule)
        self._objective = on_device(beta, rows.temperature, rows.student_NV.device)
        self._dtype = working_dtype(rows.student_NV, rows.teacher_NV)
        num_rows = len(rows.weights_N)
        empty = rows.student_NV.new_empty
        self._tops = empty((2, num_rows), dtype=self._dtype)
        self._totals = empty((2, num_rows), dtype=self._dtype)
        self._sums = empty((2, num_rows), dtype=self._dtype)
        self._log_probs = empty((2, num_rows), dtype=torch.float64)

    def alone(self) -> Tensor:
        self._launch(mass=True, sums=True, gradient=self._rows.gradient_NV is not None)
        return self._sums_of_rule()

    def statistics(self) -> Tensor:
        self._launch(mass=True, sums=self._is_kl, gradient=False)
        log_masses = self._tops.double() / self._rows.temperature + self._totals.double().log()
        return torch.cat([log_masses, self._sums.double()]) if self._is_kl else log_masses

    def sums(self, log_totals: Tensor) -> Tensor:
        self._normalise(log_totals)
        self._launch(mass=False, sums=True, gradient=False)
        return self._sums_of_rule()

    def write_gradient(self, log_totals: Tensor, sums: Tensor) -> None:
        self._normalise(log_totals)
        self._sums[: len(sums)] = sums
        self._launch(mass=False, sums=False, gradient=True)

    def _sums_of_rule(self) -> Tensor:
        """Of a KL the second is the mass at the floor, which only `statistics` says."""
        return (self._sums[:1] if self._is_kl else self._sums).double()

    def _normalise(self, log_totals: Tensor) -> None:
        """`Distribution.rescale`: log-probabilities over all ranks, whose log masses are given."""
        tops, totals = self._tops.double() / self._rows.temperature, self._totals.double()
        log_shares = (tops + totals.log() - log_totals).clamp(min=LOG_PROB_FLOOR)
        self._log_probs = log_shares - totals.log().masked_fill(totals == 0.0, 0.0)

    def _launch(self, *, mass: bool, sums: bool, gradient: bool) -> None:
        rows = self._rows
        student_NV, teacher_NV = rows.student_NV, rows.teacher_NV
        gradient_NV = student_NV if rows.gradient_NV is None else rows.gradient_NV
        row_kernel[(len(rows.weights_N),)](
            student_NV,
            teacher_NV,
            gradient_NV,
            rows.weights_N,
            self._objective,
            self._tops,
            self._totals,
            self._log_probs,
            self._sums,
            *self._labels(),
            *student_NV.stride(),
            *teacher_NV.stride(),
            *gradient_NV.stride(),
            len(rows.weights_N),
            student_NV.shape[1],
            floor=LOG_PROB_FLOOR,
            small=SMALL[self._dtype],
            RULE=self._rule,
            MASS=mass,
            SUMS=sums,
            GRADIENT=gradient,
            LABELS=rows.labels is not None,
            DTYPE=TRITON_DTYPES[self._dtype],
            TILE=TILE,
            num_warps=NUM_WARPS,
        )

    def _labels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Places, scales and log totals; without labels three tensors that are not read."""
        labels = self._rows.labels
        if labels is None:
            return self._log_probs, self._log_probs, self._log_probs
        places_N = label_places(labels, self._rows.student_NV.shape[1])
        return places_N, labels.scales_N, labels.log_totals_N


def label_places(labels: Labels, num_entries: int) -> Tensor:
    """Where this rank holds the labels [N], `num_entries` where another does."""
    return labels.places_N.masked_fill(~labels.here_N, num_entries)


def _rule_and_beta(rule: Rule) -> tuple[int, float]:
    if isinstance(rule, KL):
        return (REVERSE_KL if rule.reverse else FORWARD_KL).value, float(rule.reverse)
    assert isinstance(rule, JensenShannon)
    return JENSEN_SHANNON.value, rule.beta


@lru_cache
def on_device(beta: float, temperature: float, device: torch.device) -> Tensor:
    return torch.tensor([beta, temperature], dtype=torch.float64, device=device)
