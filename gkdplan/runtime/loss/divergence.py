"""The core of the loss: weighted divergences of rows of logits, and their gradient beside them.

Legend: N rows, B rows of one block, V true vocabulary entries of this rank, K the teacher's
likeliest ids of a row.
"""

import torch
from torch import Tensor

from gkdplan.runtime.loss.backend import EAGER, Backend
from gkdplan.runtime.loss.cross_entropy import CrossEntropy, Labels, Sft
from gkdplan.runtime.loss.rows import Rows, divergences
from gkdplan.runtime.loss.rules import rule_for
from gkdplan.runtime.loss.top_k import BucketMeasures, TopK
from gkdplan.runtime.loss.vocabulary import VocabularyShard


def weighted_divergence(
    student_NV: Tensor,
    teacher: Tensor | TopK,
    weights_N: Tensor,
    gradient_NV: Tensor | None,
    *,
    beta: float,
    temperature: float,
    shard: VocabularyShard,
    backend: Backend,
    sft: Sft | None = None,
) -> Tensor:
    """The sum over rows of weight * (divergence + alpha * cross-entropy), a float64 scalar; the
    rest is as of `row_losses`."""
    losses_N = row_losses(
        student_NV,
        teacher,
        weights_N,
        gradient_NV,
        beta=beta,
        temperature=temperature,
        shard=shard,
        backend=backend,
        sft=sft,
    )
    return (losses_N * weights_N).sum()


def row_losses(
    student_NV: Tensor,
    teacher: Tensor | TopK,
    weights_N: Tensor,
    gradient_NV: Tensor | None,
    *,
    beta: float,
    temperature: float,
    shard: VocabularyShard,
    backend: Backend,
    sft: Sft | None = None,
) -> Tensor:
    """The divergence + alpha * cross-entropy of each row [N], float64.

    `teacher` is its logits [N, V], or what is known of them. `gradient_NV`, where given, receives
    the gradient of the weighted sum wrt the student's logits; it may be `student_NV` itself. A row
    of weight 0 counts 0 and has gradient 0, whatever it holds. What rounding leaves below 0 of a
    divergence (1e-7 in float32) counts 0.
    Ranks of a tensor group exchange float64 numbers: for logits a gather of 4 a row for a KL
    divergence, else a gather of 2 and a sum of 2; for K likeliest ids a gather of K + 1; for labels
    one more of 2.
    """
    if len(weights_N) == 0:
        return weights_N.new_zeros(0, dtype=torch.float64)
    cross_entropy, labels = None, None
    if sft is not None:
        log_masses_N = backend.log_masses(student_NV)
        cross_entropy = CrossEntropy(student_NV, log_masses_N, sft, weights_N, shard)
        labels = cross_entropy.labels
    if isinstance(teacher, TopK):
        buckets = backend.buckets(student_NV, teacher.ids_NK, temperature, shard)
        losses_N = _of_buckets(buckets, teacher, weights_N, gradient_NV, beta, labels)
    else:
        rows = Rows(student_NV, teacher, weights_N, gradient_NV, temperature, labels)
        rule = rule_for(beta)
        with_gradient = gradient_NV is not None
        losses_N = divergences(
            rule, backend.measures(rule, rows), shard, with_gradient=with_gradient
        )
    ignored_N = weights_N == 0
    if gradient_NV is not None:
        gradient_NV.index_fill_(0, ignored_N.nonzero()[:, 0], 0.0)
    losses_N = losses_N.clamp_(min=0.0)
    if cross_entropy is not None:
        losses_N += cross_entropy.losses_N
    return losses_N.masked_fill(ignored_N, 0.0)


def _of_buckets(
    buckets: BucketMeasures,
    teacher: TopK,
    weights_N: Tensor,
    gradient_NV: Tensor | None,
    beta: float,
    labels: Labels | None,
) -> Tensor:
    """The divergences [N] of rows of K + 1 logits, which each rank of a tensor group has whole."""
    log_masses_NK1, teacher_NK1 = buckets.log_masses(), teacher.log_buckets()
    tail_N = log_masses_NK1[:, -1].clone()
    num_buckets = teacher_NK1.shape[1]
    student_NK1 = log_masses_NK1[:, :num_buckets]
    gradient_NK1 = None if gradient_NV is None else student_NK1
    rows = Rows(student_NK1, teacher_NK1, weights_N, gradient_NK1, temperature=1.0)
    rule, alone = rule_for(beta), VocabularyShard(num_buckets, None, None)
    losses_N = divergences(
        rule, EAGER.measures(rule, rows), alone, with_gradient=gradient_NK1 is not None
    )
    if gradient_NV is None:
        return losses_N
    has_tail = teacher.tail_N is not None
    buckets.write_gradient(gradient_NV, student_NK1, tail_N if has_tail else None, labels)
    return losses_N
