"""Held-out divergence, cross-entropy and agreement of each token, without gradient."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runtime.loss.backend import backend_for
from gkdplan.runtime.loss.cross_entropy import CrossEntropy, Sft, check_labels
from gkdplan.runtime.loss.divergence import row_losses
from gkdplan.runtime.loss.heads import TeacherStates, cut_heads
from gkdplan.runtime.loss.likeliest import likeliest_id
from gkdplan.runtime.loss.logits import check_objective
from gkdplan.runtime.loss.top_k import TopK
from gkdplan.runtime.loss.vocabulary import VocabularyShard


@dataclass(frozen=True, slots=True)
class TokenMeasures:
    """Of each of N tokens: the generalized JSD and the student's cross-entropy in nats, float64,
    and whether the likeliest id is the same of both models, bool."""

    divergences_N: Tensor
    cross_entropies_N: Tensor
    agree_N: Tensor

    def sums(self) -> Tensor:
        """[3], float64: over the tokens, those that agree counted."""
        columns = (self.divergences_N, self.cross_entropies_N, self.agree_N.double())
        return torch.stack([column.sum() for column in columns])


def token_measures(
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
) -> TokenMeasures:
    """What held-out tokens say of the student, the same on every rank of a tensor group.

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
    size = {"size": (len(labels),), "device": labels.device}
    measures = TokenMeasures(
        torch.zeros(**size, dtype=torch.float64),
        torch.zeros(**size, dtype=torch.float64),
        torch.zeros(**size, dtype=torch.bool),
    )
    with torch.no_grad():
        all_tokens = torch.arange(len(labels), device=labels.device)
        for tokens, student_CV, teacher_CV in heads.chunks(all_tokens):
            measures.divergences_N[tokens] = row_losses(
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
            measures.cross_entropies_N[tokens] = cross_entropy.losses_N
            first_C = likeliest_id(student_CV, shard)
            measures.agree_N[tokens] = first_C == _teachers_first(teacher_CV, shard)
    return measures


def _teachers_first(teacher: Tensor | TopK, shard: VocabularyShard) -> Tensor:
    """The teacher's likeliest id [N], int64."""
    if isinstance(teacher, TopK):
        first_N1 = teacher.log_probs_NK.argmax(dim=1, keepdim=True)
        return teacher.ids_NK.gather(1, first_N1)[:, 0].long()
    return likeliest_id(teacher, shard)


def _states(hidden: Tensor, head: Tensor | None, softcap: float | None) -> TeacherStates:
    if head is None:
        raise ValueError("hidden states of the teacher are nothing without its head")
    return TeacherStates(hidden, head, softcap)
