"""The generalized Jensen-Shannon divergence of two rows and its gradient, in closed form.

q is the student's distribution, p the teacher's, m = (1 - beta) q + beta p, T the temperature
(Agarwal et al., On-Policy Distillation of Language Models, arXiv 2306.13649, for the divergence;
the gradients wrt the student's logits follow from T dq_i/dz_j = q_i (1[i = j] - q_j)):

    beta 0     KL(p||q)                              (q - p) / T
    beta 1     KL(q||p)                              q (log q - log p - KL(q||p)) / T
    between    beta KL(p||m) + (1 - beta) KL(q||m)   (1 - beta) q (log q - log m - KL(q||m)) / T

The ends are cases of their own: what lies between tends to 0 at both. Logarithms are taken of
ratios, so that equal distributions give exactly 0 and close ones lose no digits.

Every backend does what these rules say; eager and compiled run them, the Triton kernel writes them
once more in its own language.

Legend: N rows, B rows of one block, V vocabulary entries of this rank, t ranks, k sums over V.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gkdplan.runtime.loss.distribution import LOG_PROB_FLOOR, Distribution, Pair, row_sums
from gkdplan.runtime.loss.vocabulary import VocabularyShard


class Measures(Protocol):
    """What a backend measures of all rows of one rank, in float64."""

    def statistics(self) -> Tensor:
        """`Rule.statistics` of every row [s, N]."""
        ...

    def sums(self, log_totals: Tensor) -> Tensor:
        """This rank's share in the sums [k, N], of log masses [2, N] over all ranks."""
        ...


class Rule(Protocol):
    """One divergence. What works on a pair works in the buffers of that pair."""

    def measure(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """What `gradient` takes of each entry [B, V], and the sums over V [k, B], in float64."""
        ...

    def loss(self, sums: Tensor) -> Tensor:
        """The divergence [B] of sums over the whole vocabulary."""
        ...

    def gradient(self, pair: Pair, terms_BV: Tensor, sums: Tensor) -> Tensor:
        """T times the gradient of `loss` [B, V], of sums over the whole vocabulary."""
        ...

    def statistics(self, pair: Pair) -> Tensor:
        """What a rank says of its own rows first [s, B]: log masses of student and teacher, ..."""
        ...

    def collect(self, measures: Measures, shard: VocabularyShard) -> tuple[Tensor, Tensor]:
        """Log masses [2, N] (student, teacher) and sums [k, N] over the vocabulary of all ranks."""
        ...


def rule_for(beta: float) -> Rule:
    """The rule of a beta: exactly 0 and exactly 1 are the KL divergences."""
    return KL(reverse=beta == 1.0) if beta in (0.0, 1.0) else JensenShannon(beta)


@dataclass(frozen=True, slots=True)
class KL:
    """KL(p||q), or KL(q||p) where `reverse`."""

    reverse: bool

    def measure(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """The terms are log a - log b, less the offset that a row's entries share: weighted by what
        is not yet normalised, they add up in the pass over the row that finds its mass."""
        a, b = self._ordered(pair)
        ratio_BV = _log_ratio_(a, b)
        weighted_BV = torch.mul(ratio_BV, a.exps_BV, out=b.shifted_BV)
        return ratio_BV, (row_sums(weighted_BV) * a.scale_B + _offset(a, b))[None]

    def loss(self, sums: Tensor) -> Tensor:
        return sums[0]

    def gradient(self, pair: Pair, terms_BV: Tensor, sums: Tensor) -> Tensor:
        if self.reverse:
            offset_B = (_offset(pair.student, pair.teacher) - sums[0]).to(terms_BV.dtype)
            return terms_BV.add_(offset_B[:, None]).mul_(pair.student.normalise_())
        return pair.student.normalise_().sub_(pair.teacher.normalise_())

    def collect(self, measures: Measures, shard: VocabularyShard) -> tuple[Tensor, Tensor]:
        """One gather. With A, B the log shares of a shard in the mass of a, b and KL its own:

        KL(a||b) = sum over shards of exp(A) (A + KL - B (1 - share of a at b's floor)).
        """
        gathered = shard.gather(measures.statistics())
        log_masses, own_kl_tN, floored_tN = gathered[:, :2], gathered[:, 2], gathered[:, 3]
        log_totals = log_masses.logsumexp(dim=0)
        student_tN, teacher_tN = (log_masses - log_totals).clamp(min=LOG_PROB_FLOOR).unbind(dim=1)
        a_tN, b_tN = (student_tN, teacher_tN) if self.reverse else (teacher_tN, student_tN)
        kl_tN = a_tN.exp() * (a_tN + own_kl_tN - b_tN * (1.0 - floored_tN))
        return log_totals, kl_tN.sum(dim=0)[None]

    def statistics(self, pair: Pair) -> Tensor:
        """[4, B]: the log masses, then the shard's own KL and a's mass at b's floor."""
        floored = _mass_at_floor_(*self._ordered(pair))[None]
        return torch.cat([pair.log_masses(), self.measure(pair)[1], floored])

    def _ordered(self, pair: Pair) -> tuple[Distribution, Distribution]:
        return (pair.student, pair.teacher) if self.reverse else (pair.teacher, pair.student)


@dataclass(frozen=True, slots=True)
class JensenShannon:
    """beta KL(p||m) + (1 - beta) KL(q||m) for 0 < beta < 1; its two sums are -KL(q||m), -KL(p||m).

    log(m/q) = log1p(beta (p - q)/q) and log(m/p) = log1p((1 - beta) (q - p)/p).
    """

    beta: float

    def measure(self, pair: Pair) -> tuple[Tensor, Tensor]:
        tiny = torch.finfo(pair.student.exps_BV.dtype).tiny
        q_BV = pair.student.normalise_().clamp_(min=tiny)
        p_BV = pair.teacher.normalise_().clamp_(min=tiny)
        gap_BV = torch.sub(p_BV, q_BV, out=pair.teacher.shifted_BV)
        terms_BV = torch.div(gap_BV, q_BV, out=pair.student.shifted_BV)
        terms_BV.mul_(self.beta).log1p_().mul_(q_BV)
        teacher_terms_BV = gap_BV.div_(p_BV).mul_(self.beta - 1.0).log1p_().mul_(p_BV)
        return terms_BV, torch.stack([row_sums(terms_BV), row_sums(teacher_terms_BV)])

    def loss(self, sums: Tensor) -> Tensor:
        return -(1.0 - self.beta) * sums[0] - self.beta * sums[1]

    def gradient(self, pair: Pair, terms_BV: Tensor, sums: Tensor) -> Tensor:
        factor_B1 = -sums[0].to(terms_BV.dtype)[:, None]
        return terms_BV.addcmul_(pair.student.exps_BV, factor_B1).mul_(self.beta - 1.0)

    def statistics(self, pair: Pair) -> Tensor:
        return pair.log_masses()

    def collect(self, measures: Measures, shard: VocabularyShard) -> tuple[Tensor, Tensor]:
        """A gather of the log masses, then a sum of the two sums."""
        log_totals = shard.gather(measures.statistics()).logsumexp(dim=0)
        return log_totals, shard.sum(measures.sums(log_totals))


def _log_ratio_(a: Distribution, b: Distribution) -> Tensor:
    """log a - log b - `_offset` [B, V] in `a.shifted_BV`, with log b floored; finite where a is
    0."""
    torch.maximum(b.shifted_BV, _floor(b), out=b.shifted_BV)
    return a.shifted_BV.sub_(b.shifted_BV).clamp_(min=LOG_PROB_FLOOR)


def _offset(a: Distribution, b: Distribution) -> Tensor:
    """[B], float64: log a - log b where both have their maximum."""
    return a.top_log_prob_B - b.top_log_prob_B


def _mass_at_floor_(a: Distribution, b: Distribution) -> Tensor:
    """The mass of a [B] on entries where `_log_ratio_` floors log b, in `b.exps_BV`."""
    at_floor_BV = torch.le(b.shifted_BV, _floor(b), out=b.exps_BV)
    return row_sums(at_floor_BV.mul_(a.exps_BV)) * a.scale_B


def _floor(b: Distribution) -> Tensor:
    """[B, 1]: what `shifted_BV` is where log b is LOG_PROB_FLOOR."""
    return (LOG_PROB_FLOOR - b.top_log_prob_B).to(b.shifted_BV.dtype)[:, None]
