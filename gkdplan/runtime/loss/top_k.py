"""A teacher of which only the K likeliest ids of each token are known.

Both distributions are taken over K + 1 buckets: the teacher's K likeliest ids, and the tail, all
other ids together. A divergence of buckets is never more than that of the ids (the log-sum
inequality), and is that of the ids where the tails differ by a factor only. With y_j = log of the
sum of exp(z_i / T) over the ids i of bucket j, softmax(y) is the student's distribution over the
buckets, and

    dL/dz_i = dL/dy_j dy_j/dz_i = dL/dy_j exp(z_i / T - y_j) / T

so that the rules of rules.py do for buckets as for ids. Renormalised, there is no tail: both
distributions are taken over the K ids only, and the others have no gradient.

Legend: N rows, B rows of one block, K ids of a row, V true vocabulary entries of this rank.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gkdplan.runtime.loss.cross_entropy import Labels, label_gradient
from gkdplan.runtime.loss.distribution import BLOCK_ROWS, blocks_of, buffers_for, working_dtype
from gkdplan.runtime.loss.vocabulary import VocabularyShard

LEAST_TAIL = torch.finfo(torch.float32).eps
"""Mass of a tail that is known only by what float32 probabilities leave of 1."""


@dataclass(frozen=True, slots=True)
class TopK:
    """The teacher's K likeliest ids of N tokens, the same on every rank of a tensor group.

    `ids_NK` are global ids of the true vocabulary, of an integer dtype, none twice in a row;
    `log_probs_NK` their natural log-probabilities over the whole vocabulary at the temperature of
    the loss, and `tail_N` the log of what all other ids have together. Without a tail the
    distributions of both models are renormalised over the K ids.
    """

    ids_NK: Tensor
    log_probs_NK: Tensor
    tail_N: Tensor | None

    def of(self, tokens: Tensor | slice) -> "TopK":
        """Of some tokens only."""
        tail = None if self.tail_N is None else self.tail_N[tokens]
        return TopK(self.ids_NK[tokens], self.log_probs_NK[tokens], tail)

    def clone(self) -> "TopK":
        """A copy of every tensor."""
        tail = None if self.tail_N is None else self.tail_N.clone()
        return TopK(self.ids_NK.clone(), self.log_probs_NK.clone(), tail)

    def check(self, num_tokens: int) -> None:
        """Raise ValueError unless the shapes fit together and are of `num_tokens` tokens."""
        tail = (num_tokens,) if self.tail_N is None else tuple(self.tail_N.shape)
        shapes = [tuple(self.ids_NK.shape), tuple(self.log_probs_NK.shape), tail]
        whole = [(num_tokens, *self.ids_NK.shape[1:2])] * 2
        if shapes != [*whole, (num_tokens,)] or self.ids_NK.dim() != 2:
            raise ValueError(f"ids [N, K], log-probs [N, K] and tail [N] wanted, not {shapes}")

    def log_buckets(self) -> Tensor:
        """[N, K + 1] log-probabilities, float64; [N, K] without a tail."""
        if self.tail_N is None:
            return self.log_probs_NK.double()
        num_tokens, num_kept = self.log_probs_NK.shape
        buckets = self.log_probs_NK.new_empty((num_tokens, num_kept + 1), dtype=torch.float64)
        buckets[:, :-1], buckets[:, -1] = self.log_probs_NK, self.tail_N
        return buckets


def with_tail(ids: Tensor, log_probs: Tensor) -> TopK:
    """Of [N, K] ids and log-probabilities: the tail has what they leave of 1, at least LEAST_TAIL,
    as no float32 log-probabilities can say less; nothing where K ids are all that there are."""
    rest = 1.0 - log_probs.double().exp().sum(dim=1)
    return TopK(ids, log_probs, rest.clamp(min=LEAST_TAIL).log())


class BucketMeasures(Protocol):
    """How a backend sums up rows of logits [N, V] by the buckets of ids [N, K]."""

    def log_masses(self) -> Tensor:
        """log sum exp(logits / temperature) of each bucket [N, K + 1], float64, the tail last; one
        gather over the ranks."""
        ...

    def write_gradient(
        self,
        gradient_NV: Tensor,
        gradient_NK1: Tensor,
        tail_N: Tensor | None,
        labels: Labels | None,
    ) -> None:
        """The gradient of the logits, which may be these, from that of the buckets' log masses
        [N, K + 1]; `tail_N` is the tail's log mass, None where it has no gradient. That of the
        cross-entropy of the labels is added."""
        ...


class Buckets:
    """Rows of logits [N, V] summed up by the buckets of the ids [N, K].

    Blocks are worked on in one buffer [B, V + 1]: its last column is -inf where it is read, and
    takes what belongs to ids of other ranks where it is written.
    """

    def __init__(
        self, logits_NV: Tensor, ids_NK: Tensor, temperature: float, shard: VocabularyShard
    ) -> None:
        self._logits_NV = logits_NV
        self._temperature = temperature
        self._shard = shard
        places_NK, here_NK = shard.places_of(ids_NK)
        self._places_NK = places_NK.masked_fill_(~here_NK, logits_NV.shape[1])
        num_rows, width = logits_NV.shape
        block_rows = min(BLOCK_ROWS[logits_NV.device.type], num_rows)
        self._buffer_BV1 = logits_NV.new_empty(
            (block_rows, width + 1), dtype=working_dtype(logits_NV)
        )

    def log_masses(self) -> Tensor:
        parts = [self._log_masses(rows) for rows in self._blocks()]
        of_shard_NK1 = torch.cat(parts)
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
        num_kept = self._places_NK.shape[1]
        label_buffer_BV = None if labels is None else buffers_for(1, self._logits_NV)[0]
        for rows in self._blocks():
            buffer = self._block(rows)
            if tail_N is None:
                buffer.zero_()
            else:
                _, top_B = self._tail(rows)
                factor_B = (top_B - tail_N[rows]).exp_() * gradient_NK1[rows, -1]
                factor_B.masked_fill_(top_B == -torch.inf, 0.0).div_(self._temperature)
                buffer.mul_(factor_B.to(buffer.dtype)[:, None])
            kept_BK = (gradient_NK1[rows, :num_kept] / self._temperature).to(buffer.dtype)
            gradient_BV = buffer.scatter_(1, self._places_NK[rows], kept_BK)[:, :-1]
            if labels is not None:
                assert label_buffer_BV is not None
                part_BV = label_buffer_BV[: len(buffer)]
                gradient_BV += label_gradient(self._logits_NV[rows], labels.of(rows), part_BV)
            gradient_NV[rows].copy_(gradient_BV)

    def _log_masses(self, rows: slice) -> Tensor:
        kept_BK, top_B = self._tail(rows)
        tail_B = top_B + self._block(rows).sum(dim=1).double().log()
        return torch.cat([kept_BK, tail_B[:, None]], dim=1)

    def _tail(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The kept logits / temperature [B, K], and the tail's largest [B], float64.

        The buffer then holds exp((logits - largest) / temperature) of the tail, 0 elsewhere.
        """
        buffer, places_BK = self._block(rows), self._places_NK[rows]
        buffer[:, :-1].copy_(self._logits_NV[rows])
        buffer[:, -1] = -torch.inf
        kept_BK = buffer.gather(1, places_BK).double()
        buffer.scatter_(1, places_BK, -torch.inf)
        top_B1 = buffer.amax(dim=1, keepdim=True)
        buffer.sub_(top_B1.masked_fill(top_B1 == -torch.inf, 0.0))
        buffer.div_(self._temperature).exp_()
        return kept_BK / self._temperature, top_B1[:, 0].double() / self._temperature

    def _block(self, rows: slice) -> Tensor:
        return self._buffer_BV1[: rows.stop - rows.start]

    def _blocks(self) -> list[slice]:
        return blocks_of(len(self._logits_NV), self._logits_NV.device)
