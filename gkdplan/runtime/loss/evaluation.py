"""Held-out divergence and cross-entropy, without gradient."""

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runtime.loss.backend import backend_for
from gkdplan.runtime.loss.cross_entropy import CrossEntropy, Sft, check_labels
from gkdplan.runtime.loss.divergence import weighted_divergence
from gkdplan.runtime.loss.heads import TeacherStates, cut_heads
from gkdplan.runtime.loss.logits import check_objective
from gkdplan.runtime.loss.top_k import TopK


def divergence_and_cross_entropy(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher: Tensor | TopK,
    teacher_head: Tensor | None,
    labels: Tensor,
    *,
    beta: float,
    chunk_tokens: int,
    temperature: float = 1.0,
    group: dist.ProcessGroup | None = None,
    vocab_size: int | None = None,
    backend: str | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums over tokens of the generalized JSD and of the student's cross-entropy, float64 scalars.

    Shapes as `jsd_linear`; `teacher` are its hidden states, to be multiplied by its head, or its
    likeliest ids and their tail, over which the divergence then is. `labels` [N] are global token
    ids. The cross-entropy is at temperature 1 whatever `temperature` is, over the same true
    vocabulary.

    Raises ValueError as `jsd_linear`, and where a label lies outside the vocabulary.
    """
    check_objective(beta, temperature)
    by = backend_for(backend, student_hidden.device)
    known = teacher
    if not isinstance(known, TopK):
        known = _states(known, teacher_head, teacher_softcap)
    heads, shard = cut_heads(
        student_hidden, student_head, known, chunk_tokens, vocab_size, group, student_softcap
    )
    if labels.shape != student_hidden.shape[:1]:
        raise ValueError(f"{len(student_hidden)} tokens, but labels {tuple(labels.shape)}")
    check_labels(labels, shard.vocab_size)
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
                backend=by,
            )
            sft = Sft(labels[tokens], alpha=1.0)
            log_masses_C = by.log_masses(student_CV)
            cross_entropy = CrossEntropy(student_CV, log_masses_C, sft, weights_N[tokens], shard)
            totals[1] += cross_entropy.losses_N.sum()
    return totals[0], totals[1]


def _states(hidden: Tensor, head: Tensor | None, softcap: float | None) -> TeacherStates:
    if head is None:
        raise ValueError("hidden states of the teacher are nothing without its head")
    return TeacherStates(hidden, head, softcap)
