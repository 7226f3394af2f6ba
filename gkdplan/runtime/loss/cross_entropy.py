"""Cross-entropy of the label tokens, at temperature 1, and its gradient block by block.

Legend: N rows, B rows of one block, V true vocabulary entries of this rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gkdplan.runtime.loss.distribution import Distribution, buffers_for
from gkdplan.runtime.loss.vocabulary import VocabularyShard


@dataclass(frozen=True, slots=True)
class Sft:
    """The cross-entropy of `labels_N`, global token ids, is added `alpha` times to the loss."""

    labels_N: Tensor
    alpha: float

    def of(self, tokens: Tensor) -> "Sft":
        """Of some tokens only."""
        return Sft(self.labels_N[tokens], self.alpha)


def sft_of(labels: Tensor | None, alpha: float, weights: Tensor, vocab_size: int) -> Sft | None:
    """None where `alpha` is 0.

    Raises ValueError where labels are missing, do not fit the weights [N], or lie outside the
    vocabulary though their token counts.
    """
    if alpha < 0.0:
        raise ValueError(f"sft_alpha {alpha} is below 0")
    if alpha == 0.0:
        return None
    if labels is None:
        raise ValueError(f"sft_alpha is {alpha}, but there are no labels")
    if labels.shape != weights.shape:
        raise ValueError(f"{len(weights)} tokens, but labels {tuple(labels.shape)}")
    check_labels(labels.masked_fill(weights == 0, 0), vocab_size)
    return Sft(labels, alpha)


def check_labels(labels: Tensor, vocab_size: int) -> None:
    """Raise ValueError unless all of them are ids of the true vocabulary."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < vocab_size:
        raise ValueError(f"a label lies outside the vocabulary of {vocab_size} ids")


class CrossEntropy:
    """alpha * cross-entropy of rows of logits [N, V], whose log masses of this rank are given:
    `losses_N`, float64, and the gradient of their weighted sum.

    It takes one gather of two numbers a row over the tensor group, and none for the gradient.
    """

    def __init__(
        self,
        logits_NV: Tensor,
        log_masses_N: Tensor,
        sft: Sft,
        weights_N: Tensor,
        shard: VocabularyShard,
    ) -> None:
        self._logits_NV = logits_NV
        self.scales_N = weights_N * sft.alpha
        self.places_N, self.here_N = shard.places_of(sft.labels_N)
        gathered = shard.gather(torch.stack([log_masses_N, self._label_logits()]))
        self.log_totals_N = gathered[:, 0].logsumexp(dim=0)
        self.losses_N = (self.log_totals_N - gathered[:, 1].sum(dim=0)) * sft.alpha

    def gradient(self, rows: slice, buffers: Tensor | None = None) -> Tensor:
        """weight * alpha * (probabilities - one-hot label) [B, V], in buffers [2, B, V]."""
        logits_BV = self._logits_NV[rows]
        if buffers is None:
            buffers = buffers_for(2, logits_BV)
        distribution = Distribution(logits_BV, 1.0, buffers)
        distribution.allow_masked_rows()
        distribution.rescale(self.log_totals_N[rows])
        scales_B = self.scales_N[rows].to(buffers.dtype)
        gradient_BV = distribution.probs_BV.mul_(scales_B[:, None])
        if gradient_BV.shape[1]:
            less_B = (scales_B * self.here_N[rows]).neg_()
            gradient_BV.scatter_add_(1, self.places_N[rows, None], less_B[:, None])
        return gradient_BV

    def _label_logits(self) -> Tensor:
        """[N], float64; 0 where another rank holds the label."""
        if self._logits_NV.shape[1] == 0:
            return self._logits_NV.new_zeros(len(self._logits_NV), dtype=torch.float64)
        found_N = self._logits_NV.gather(1, self.places_N[:, None])[:, 0].double()
        return found_N.masked_fill_(~self.here_N, 0.0)
