"""The distillation loss of stored logits."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runtime.loss.backend import Backend, backend_for
from gkdplan.runtime.loss.cross_entropy import Sft, sft_of
from gkdplan.runtime.loss.distribution import working_dtype
from gkdplan.runtime.loss.divergence import weighted_divergence
from gkdplan.runtime.loss.gradient import hand_over
from gkdplan.runtime.loss.top_k import TopK
from gkdplan.runtime.loss.vocabulary import VocabularyShard


def jsd_logits(
    student_logits: Tensor,
    teacher_logits: Tensor | TopK,
    weights: Tensor,
    *,
    beta: float,
    temperature: float = 1.0,
    labels: Tensor | None = None,
    sft_alpha: float = 0.0,
    group: dist.ProcessGroup | None = None,
    inplace: bool = False,
    vocab_size: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """The sum over tokens of weight * generalized JSD, a scalar, from logits [N, V/t].

    `weights` [N] hold the normaliser (1 / number of tokens of the global batch; 0 ignores a token,
    whatever its row holds); the caller averages nothing afterwards. beta 0 is KL(teacher||student)
    and beta 1 KL(student||teacher), exactly; between them beta KL(t||m) + (1 - beta) KL(s||m) with
    m = beta t + (1 - beta) s. There is no factor temperature ** 2.

    Of a `TopK` teacher the divergence is that of the distributions over its K ids and the tail. A
    positive `sft_alpha` adds weight * sft_alpha * cross-entropy of `labels` [N], global token ids,
    at temperature 1.

    With a tensor `group` of t ranks, rank r holds the ids [r V/t, (r + 1) V/t) of one padded
    vocabulary on both sides, and every rank gets the whole loss and the gradient of its own
    logits. Ids from `vocab_size` on are left out and have gradient 0.

    Any floating dtype; computed and returned in float32, float64 for float64. The gradient is
    computed here, in one buffer of the student's shape, or with `inplace` in the student's logits
    themselves, which nothing else may then read. The teacher has no gradient.

    `backend` is "eager", "compiled" or "triton", left out the device's default (backend.py).

    Raises ValueError where the shapes, beta, temperature, sft_alpha, labels or vocab_size do not
    fit together, or the device has no such backend.
    """
    if isinstance(teacher_logits, TopK):
        teacher_logits.check(len(student_logits))
        teacher_shape = student_logits.shape
    else:
        teacher_shape = teacher_logits.shape
    if teacher_shape != student_logits.shape or weights.shape != student_logits.shape[:1]:
        shapes = [tuple(s) for s in (student_logits.shape, teacher_shape, weights.shape)]
        raise ValueError(f"logits [N, V], logits [N, V] and weights [N] wanted, not {shapes}")
    check_objective(beta, temperature)
    shard = VocabularyShard(student_logits.shape[1], vocab_size, group)
    sft = sft_of(labels, sft_alpha, weights, shard.vocab_size)
    with_gradient = torch.is_grad_enabled() and student_logits.requires_grad
    loss: Tensor = _JsdLogits.apply(
        student_logits,
        teacher_logits,
        weights,
        beta,
        temperature,
        shard,
        sft,
        backend_for(backend, student_logits.device),
        inplace,
        with_gradient,
    )
    return loss


def check_objective(beta: float, temperature: float) -> None:
    """Raise ValueError unless 0 <= beta <= 1 and temperature > 0."""
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta {beta} is not between 0 and 1")
    if not temperature > 0.0:
        raise ValueError(f"temperature {temperature} is not above 0")


class _JsdLogits(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        student_NV: Tensor,
        teacher: Tensor | TopK,
        weights_N: Tensor,
        beta: float,
        temperature: float,
        shard: VocabularyShard,
        sft: Sft | None,
        backend: Backend,
        inplace: bool,
        with_gradient: bool,
    ) -> Tensor:
        width = shard.num_entries
        gradient_NV = None
        if with_gradient:
            gradient_NV = student_NV.detach() if inplace else torch.empty_like(student_NV)
        logits: tuple[Tensor, ...] = (student_NV,)
        if not isinstance(teacher, TopK):
            logits = student_NV, teacher
            teacher = teacher[:, :width]
        loss = weighted_divergence(
            student_NV[:, :width],
            teacher,
            weights_N,
            None if gradient_NV is None else gradient_NV[:, :width],
            beta=beta,
            temperature=temperature,
            shard=shard,
            backend=backend,
            sft=sft,
        )
        if gradient_NV is not None:
            gradient_NV[:, width:].zero_()
        ctx.gradients = (gradient_NV,)
        return loss.to(working_dtype(*logits))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return (*hand_over(ctx, grad_output), *(None,) * 9)
