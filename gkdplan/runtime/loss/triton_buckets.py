"""Buckets of likeliest ids in the Triton backend.

Legend: N rows, K kept ids of a row, V true vocabulary entries of this rank.
"""

import torch
from torch import Tensor

from gkdplan.runtime.loss.cross_entropy import Labels
from gkdplan.runtime.loss.distribution import working_dtype
from gkdplan.runtime.loss.triton_bucket_kernels import bucket_gradient_kernel, tail_kernel
from gkdplan.runtime.loss.triton_rows import (
    NUM_WARPS,
    TILE,
    TRITON_DTYPES,
    label_places,
    on_device,
)
from gkdplan.runtime.loss.vocabulary import VocabularyShard


class TritonBuckets:
    """A launch for the tails, a launch for the gradient."""

    def __init__(
        self, logits_NV: Tensor, ids_NK: Tensor, temperature: float, shard: VocabularyShard
    ) -> None:
        self._logits_NV = logits_NV
        self._temperature = temperature
        self._shard = shard
        self._dtype = working_dtype(logits_NV)
        self._on_device = on_device(1.0, temperature, logits_NV.device)[1:]
        places_NK, self._here_NK = shard.places_of(ids_NK)
        self._kept_NK = _kept(logits_NV, places_NK, self._here_NK)
        elsewhere_NK = places_NK.masked_fill(~self._here_NK, logits_NV.shape[1])
        self._places_NK, self._order_NK = elsewhere_NK.int().sort(dim=1)
        self._tops_N, self._totals_N = logits_NV.new_empty((2, len(logits_NV)), dtype=self._dtype)

    def log_masses(self) -> Tensor:
        tail_kernel[(len(self._logits_NV),)](
            self._logits_NV,
            self._places_NK,
            self._tops_N,
            self._totals_N,
            self._on_device,
            *self._logits_NV.stride(),
            self._logits_NV.shape[1],
            self._places_NK.shape[1],
            DTYPE=TRITON_DTYPES[self._dtype],
            TILE=TILE,
            num_warps=NUM_WARPS,
        )
        tail_N = self._tops_N.double() / self._temperature + self._totals_N.double().log()
        of_shard_NK1 = torch.cat([self._kept_NK / self._temperature, tail_N[:, None]], dim=1)
        if self._shard.size == 1:
            return of_shard_NK1
        return self._shard.gather(of_shard_NK1).logsumexp(dim=0)

    def write_gradient(
        self,
        gradient_NV: Tensor,
        gradient_NK1: Tensor,
        tail_N: Tensor | None,
        labels: Labels | None,
    ) -> None:
        logits_NV, tops_N = self._logits_NV, self._tops_N.double()
        gradient_NK1 = (gradient_NK1 / self._temperature).to(self._dtype)
        kept_NK = gradient_NK1.gather(1, self._order_NK)
        factors_N = torch.zeros_like(self._tops_N)
        if tail_N is not None:
            shares_N = (tops_N / self._temperature - tail_N).exp_()
            shares_N.masked_fill_(self._totals_N == 0.0, 0.0)
            factors_N = shares_N.to(self._dtype) * gradient_NK1[:, -1]
        bucket_gradient_kernel[(len(logits_NV),)](
            logits_NV,
            gradient_NV,
            self._places_NK,
            kept_NK,
            self._tops_N,
            factors_N,
            self._on_device,
            *self._of_labels(labels),
            *logits_NV.stride(),
            *gradient_NV.stride(),
            logits_NV.shape[1],
            self._places_NK.shape[1],
            LABELS=labels is not None,
            DTYPE=TRITON_DTYPES[self._dtype],
            TILE=TILE,
            num_warps=NUM_WARPS,
        )

    def _of_labels(self, labels: Labels | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Places, scales, largest logits and factors; without labels four that are not read."""
        if labels is None:
            return self._places_NK, self._tops_N, self._tops_N, self._tops_N
        kept_tops_N = self._kept_NK.amax(dim=1).to(self._dtype)
        tops_N = torch.maximum(
            kept_tops_N, self._tops_N.masked_fill(self._totals_N == 0, -torch.inf)
        )
        tops_N.masked_fill_(tops_N == -torch.inf, 0.0)
        factors_N = (tops_N.double() - labels.log_totals_N).exp_() * labels.scales_N
        places_N = label_places(labels, self._logits_NV.shape[1])
        return places_N, labels.scales_N, tops_N, factors_N.to(self._dtype)


def _kept(logits_NV: Tensor, places_NK: Tensor, here_NK: Tensor) -> Tensor:
    """The kept logits [N, K], float64; -inf where another rank holds one."""
    if logits_NV.shape[1] == 0:
        return logits_NV.new_full(places_NK.shape, -torch.inf, dtype=torch.float64)
    return logits_NV.gather(1, places_NK).double().masked_fill_(~here_NK, -torch.inf)
