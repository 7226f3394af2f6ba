"""Held-out divergence and cross-entropy, without gradient."""

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runtime.loss.distribution import Distribution, blocks_of, buffers_for
from gkdplan.runtime.loss.divergence import weighted_divergence
from gkdplan.runtime.loss.heads import cut_heads
from gkdplan.runtime.loss.logits import check_objective
from gkdplan.runtime.loss.vocabulary import VocabularyShard


def divergence_and_cross_entropy(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    labels: Tensor,
    *,
    beta: float,
    chunk_tokens: int,
    temperature: float = 1.0,
    group: dist.ProcessGroup | None = None,
    vocab_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums over tokens of the generalized JSD and of the student's cross-entropy, float64 scalars.

    Shapes as `jsd_linear`; `labels` [N] are global token ids. The cross-entropy is at temperature
    1 whatever `temperature` is, over the same true vocabulary.

    Raises ValueError as `jsd_linear`, and where a label lies outside the vocabulary.
    """
    check_objective(beta, temperature)
    heads, shard = cut_heads(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        chunk_tokens,
        vocab_size,
        group,
    )
    if labels.shape != student_hidden.shape[:1]:
        raise ValueError(f"{len(student_hidden)} tokens, but labels {tuple(labels.shape)}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < shard.vocab_size:
        raise ValueError(f"a label lies outside the vocabulary of {shard.vocab_size} ids")
    weights_N = torch.ones(len(labels), device=labels.device)
    totals = torch.zeros(2, dtype=torch.float64, device=labels.device)
    with torch.no_grad():
        all_tokens = torch.arange(len(labels), device=labels.device)
        for tokens, student_CV, teacher_CV in heads.chunks(all_tokens):
            totals[0] += weighted_divergence(
                student_CV,
                teacher_CV,
                weights_N[tokens],
                None,
                beta=beta,
                temperature=temperature,
                shard=shard,
            )
            totals[1] += _cross_entropy(student_CV, labels[tokens], shard)
    return totals[0], totals[1]


def _cross_entropy(logits_CV: Tensor, labels_C: Tensor, shard: VocabularyShard) -> Tensor:
    """The sum of log sum exp(logits) - logits[label], in one gather of two numbers a token."""
    local_ids = labels_C - shard.first_id
    here = ((local_ids >= 0) & (local_ids < shard.num_entries)).nonzero()[:, 0]
    statistics = torch.zeros((2, len(labels_C)), dtype=torch.float64, device=labels_C.device)
    statistics[0] = _log_masses(logits_CV)
    statistics[1, here] = logits_CV[here, local_ids[here]].double()
    gathered = shard.gather(statistics)
    return (gathered[:, 0].logsumexp(dim=0) - gathered[:, 1].sum(dim=0)).sum()


def _log_masses(logits_CV: Tensor) -> Tensor:
    """log sum exp over this rank's entries [C], float64; -inf where there are none."""
    buffers = buffers_for(2, logits_CV)
    log_masses_C = []
    for rows in blocks_of(len(logits_CV), logits_CV.device):
        logits_BV = logits_CV[rows]
        distribution = Distribution(logits_BV, 1.0, buffers[:, : len(logits_BV)])
        distribution.allow_masked_rows()
        log_masses_C.append(distribution.log_mass_B)
    return torch.cat(log_masses_C)
