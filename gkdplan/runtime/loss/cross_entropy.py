"""Cross-entropy of the label tokens, at temperature 1, and its gradient block by block.

Legend: N rows, B rows of one block, V true vocabulary entries of this rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gkdplan.runtime.loss.distribution import row_max
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


@dataclass(frozen=True, slots=True)
class Labels:
    """What the gradient of the cross-entropy needs of rows: where this rank holds the label and
    whether it does, weight * alpha, and log sum exp of the logits over all ranks, float64."""

    places_N: Tensor
    here_N: Tensor
    scales_N: Tensor
    log_totals_N: Tensor

    def of(self, rows: slice) -> "Labels":
        """Of one block of rows."""
        return Labels(
            self.places_N[rows], self.here_N[rows], self.scales_N[rows], self.log_totals_N[rows]
        )

    def clone(self) -> "Labels":
        """A copy of every tensor."""
        return Labels(
            self.places_N.clone(),
            self.here_N.clone(),
            self.scales_N.clone(),
            self.log_totals_N.clone(),
        )


class CrossEntropy:
    """alpha * cross-entropy of rows of logits [N, V], whose log masses of this rank are given:
    `losses_N`, float64, and `labels` for the gradient of their weighted sum.

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
        places_N, here_N = shard.places_of(sft.labels_N)
        label_logits_N = _label_logits(logits_NV, places_N, here_N)
        gathered = shard.gather(torch.stack([log_masses_N, label_logits_N]))
        log_totals_N = gathered[:, 0].logsumexp(dim=0)
        self.losses_N = (log_totals_N - gathered[:, 1].sum(dim=0)) * sft.alpha
        self.labels = Labels(places_N, here_N, weights_N * sft.alpha, log_totals_N)


def label_gradient(logits_BV: Tensor, labels: Labels, buffer_BV: Tensor) -> Tensor:
    """scale * (probabilities - one-hot label) [B, V], in the buffer."""
    top_B = row_max(logits_BV).to(buffer_BV.dtype)
    top_B.masked_fill_(top_B == -torch.inf, 0.0)
    factor_B = (top_B - labels.log_totals_N).exp() * labels.scales_N
    torch.sub(logits_BV, top_B[:, None], out=buffer_BV)
    buffer_BV.exp_().mul_(factor_B.to(buffer_BV.dtype)[:, None])
    if buffer_BV.shape[1]:
        less_B = (labels.scales_N * labels.here_N).neg_().to(buffer_BV.dtype)
        buffer_BV.scatter_add_(1, labels.places_N[:, None], less_B[:, None])
    return buffer_BV


def _label_logits(logits_NV: Tensor, places_N: Tensor, here_N: Tensor) -> Tensor:
    """[N], float64; 0 where another rank holds the label."""
    if logits_NV.shape[1] == 0:
        return logits_NV.new_zeros(len(logits_NV), dtype=torch.float64)
    found_N = logits_NV.gather(1, places_N[:, None])[:, 0].double()
    return found_N.masked_fill_(~here_N, 0.0)
