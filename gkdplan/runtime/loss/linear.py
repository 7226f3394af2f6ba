"""The distillation loss from hidden states: output heads and loss chunk by chunk, no stored logits.

Legend: N tokens, C tokens of one chunk, H hidden size of the student, V vocabulary entries.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runtime.loss.backend import Backend, backend_for
from gkdplan.runtime.loss.cross_entropy import Sft, sft_of
from gkdplan.runtime.loss.divergence import weighted_divergence
from gkdplan.runtime.loss.gradient import hand_over
from gkdplan.runtime.loss.heads import Heads, TeacherStates, cut_heads
from gkdplan.runtime.loss.logits import check_objective
from gkdplan.runtime.loss.products import add_head_gradient_, hidden_gradient
from gkdplan.runtime.loss.softcap import slope_
from gkdplan.runtime.loss.top_k import TopK
from gkdplan.runtime.loss.vocabulary import VocabularyShard

CHUNK_TOKENS = {"cpu": 256, "cuda": 1024}


def jsd_linear(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    weights: Tensor,
    *,
    beta: float,
    temperature: float = 1.0,
    labels: Tensor | None = None,
    sft_alpha: float = 0.0,
    group: dist.ProcessGroup | None = None,
    chunk_tokens: int | None = None,
    vocab_size: int | None = None,
    backend: str | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
) -> Tensor:
    """`jsd_logits` of hidden states [N, H] times heads [V/t, H]; the teacher has its own H.

    A softcap c bounds the products of its side to c tanh(product / c).

    Tokens of weight 0 are left out before the products, so that their rows may hold anything.
    `weights` must be equal on all ranks of the tensor group: they decide which tokens are sent.

    Only `chunk_tokens` tokens (left out, 256 on a CPU and 1,024 on CUDA) have logits at one time,
    in float32 (float64 for float64 hidden states) also where hidden states and heads are bf16;
    both gradients are computed here and accumulated in float32, the head's returned in the head's
    dtype. Under a tensor group the
    gradient of the hidden states is this rank's share: the op that brought the hidden states to
    all ranks (copy, or gather from the sequence-parallel region) sums it over the group in its
    backward, as it does for any column-parallel layer.

    Raises ValueError as `jsd_logits`.
    """
    return _loss(
        student_hidden,
        student_head,
        TeacherStates(teacher_hidden, teacher_head, teacher_softcap),
        weights,
        beta=beta,
        temperature=temperature,
        labels=labels,
        sft_alpha=sft_alpha,
        group=group,
        chunk_tokens=chunk_tokens,
        vocab_size=vocab_size,
        backend=backend,
        student_softcap=student_softcap,
    )


def top_k_linear(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher: TopK,
    weights: Tensor,
    *,
    beta: float,
    temperature: float = 1.0,
    labels: Tensor | None = None,
    sft_alpha: float = 0.0,
    group: dist.ProcessGroup | None = None,
    chunk_tokens: int | None = None,
    vocab_size: int | None = None,
    backend: str | None = None,
    student_softcap: float | None = None,
) -> Tensor:
    """`jsd_linear` of a teacher of which only the likeliest ids are known: as `jsd_logits` of it.

    Raises ValueError as `jsd_logits`.
    """
    return _loss(
        student_hidden,
        student_head,
        teacher,
        weights,
        beta=beta,
        temperature=temperature,
        labels=labels,
        sft_alpha=sft_alpha,
        group=group,
        chunk_tokens=chunk_tokens,
        vocab_size=vocab_size,
        backend=backend,
        student_softcap=student_softcap,
    )


def _loss(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher: TeacherStates | TopK,
    weights: Tensor,
    *,
    beta: float,
    temperature: float,
    labels: Tensor | None,
    sft_alpha: float,
    group: dist.ProcessGroup | None,
    chunk_tokens: int | None,
    vocab_size: int | None,
    backend: str | None,
    student_softcap: float | None,
) -> Tensor:
    check_objective(beta, temperature)
    if weights.shape != student_hidden.shape[:1]:
        raise ValueError(f"{len(student_hidden)} tokens, but weights {tuple(weights.shape)}")
    if chunk_tokens is None:
        chunk_tokens = CHUNK_TOKENS[student_hidden.device.type]
    heads, shard = cut_heads(
        student_hidden, student_head, teacher, chunk_tokens, vocab_size, group, student_softcap
    )
    loss: Tensor = _JsdLinear.apply(
        student_hidden,
        student_head,
        heads,
        weights,
        beta,
        temperature,
        shard,
        sft_of(labels, sft_alpha, weights, shard.vocab_size),
        backend_for(backend, student_hidden.device),
        torch.is_grad_enabled(),
    )
    return loss


class _JsdLinear(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        student_hidden_NH: Tensor,
        student_head_VH: Tensor,
        heads: Heads,
        weights_N: Tensor,
        beta: float,
        temperature: float,
        shard: VocabularyShard,
        sft: Sft | None,
        backend: Backend,
        with_gradient: bool,
    ) -> Tensor:
        hidden_gradient_NH, head_gradient_VH = None, None
        if with_gradient and student_hidden_NH.requires_grad:
            hidden_gradient_NH = torch.zeros_like(student_hidden_NH)
        if with_gradient and student_head_VH.requires_grad:
            head_gradient_VH = torch.zeros_like(student_head_VH, dtype=heads.dtype)
        loss = _loss_and_gradients(
            heads,
            weights_N,
            hidden_gradient_NH,
            head_gradient_VH,
            beta,
            temperature,
            shard,
            sft,
            backend,
        )
        if head_gradient_VH is not None:
            head_gradient_VH = head_gradient_VH.to(student_head_VH.dtype)
        ctx.gradients = (hidden_gradient_NH, head_gradient_VH)
        return loss.to(heads.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return (*hand_over(ctx, grad_output), *(None,) * 8)


def _loss_and_gradients(
    heads: Heads,
    weights_N: Tensor,
    hidden_gradient_NH: Tensor | None,
    head_gradient_VH: Tensor | None,
    beta: float,
    temperature: float,
    shard: VocabularyShard,
    sft: Sft | None,
    backend: Backend,
) -> Tensor:
    """The loss; the gradients that are wanted, zeros before, are written.

    `weighted_divergence` turns a chunk's logits into their gradient, which both products then use;
    bounded ones are kept for their slope, and the gradient has a buffer of its own.
    """
    with_gradient = hidden_gradient_NH is not None or head_gradient_VH is not None
    softcap = heads.student_softcap
    loss = weights_N.new_zeros((), dtype=torch.float64)
    for tokens, student_CV, teacher in heads.chunks(weights_N.nonzero()[:, 0]):
        gradient_CV = student_CV if softcap is None else torch.empty_like(student_CV)
        loss += weighted_divergence(
            student_CV,
            teacher,
            weights_N[tokens],
            gradient_CV if with_gradient else None,
            beta=beta,
            temperature=temperature,
            shard=shard,
            backend=backend,
            sft=None if sft is None else sft.of(tokens),
        )
        if softcap is not None:
            gradient_CV.mul_(slope_(student_CV, softcap))
        if hidden_gradient_NH is not None:
            hidden_gradient_NH.index_copy_(
                0,
                tokens,
                hidden_gradient(gradient_CV, heads.student_head_VH).to(hidden_gradient_NH.dtype),
            )
        if head_gradient_VH is not None:
            add_head_gradient_(
                head_gradient_VH[: shard.num_entries], gradient_CV, heads.student_hidden_NH[tokens]
            )
    return loss
