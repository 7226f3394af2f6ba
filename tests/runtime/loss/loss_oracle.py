"""The generalized JSD as its definition reads, in float64, with autograd's gradient."""

import torch
from torch import Tensor

from gkdplan.vocab import LossBackend

BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)
TEMPERATURES = (1.0, 2.0)


def kl(a: Tensor, b: Tensor) -> Tensor:
    return (a * (torch.log(a) - torch.log(b))).sum(dim=-1)


def token_losses(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    q = torch.softmax(student.double() / temperature, dim=-1)
    p = torch.softmax(teacher.double() / temperature, dim=-1)
    if beta == 0.0:
        return kl(p, q)
    if beta == 1.0:
        return kl(q, p)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def loss_and_gradient(
    student: Tensor, teacher: Tensor, weights: Tensor, beta: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """The weighted sum and its gradient wrt the student's logits."""
    student = student.detach().double().requires_grad_()
    loss = (token_losses(student, teacher.detach(), beta, temperature) * weights.double()).sum()
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def floored_losses_and_gradient(
    student: Tensor, teacher: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Token losses and their gradients in closed form, log-probabilities at least -1e4.

    Autograd cannot say this: it multiplies 0 by infinity where a probability is 0.
    """
    log_q, log_p = (
        torch.log_softmax(x.detach().double(), dim=-1).clamp(min=-1e4) for x in (student, teacher)
    )
    q, p = log_q.exp(), log_p.exp()
    if beta == 0.0:
        return (p * (log_p - log_q)).sum(dim=-1), q - p
    log_m = log_p if beta == 1.0 else (beta * p + (1 - beta) * q).clamp(min=1e-300).log()
    student_kl = (q * (log_q - log_m)).sum(dim=-1, keepdim=True)
    gradient = q * (log_q - log_m - student_kl)
    if beta == 1.0:
        return student_kl[..., 0], gradient
    losses = beta * (p * (log_p - log_m)).sum(dim=-1) + (1 - beta) * student_kl[..., 0]
    return losses, (1 - beta) * gradient


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Of the norm of the difference."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def top_k_losses(
    student: Tensor, ids: Tensor, log_buckets: Tensor, beta: float, temperature: float
) -> Tensor:
    """Of distributions over the ids [N, K], and over their tail where there are K + 1 buckets."""
    q = torch.softmax(student.double() / temperature, dim=-1)
    kept = q.gather(1, ids)
    is_tail = torch.ones_like(q).scatter(1, ids, 0.0)
    if log_buckets.shape[1] > ids.shape[1]:
        q = torch.cat([kept, (q * is_tail).sum(dim=1, keepdim=True)], dim=1)
    else:
        q = kept / kept.sum(dim=1, keepdim=True)
    p = torch.softmax(log_buckets.double(), dim=-1)
    return token_losses(q.log(), p.log(), beta, 1.0)


def as_stored(gradient: Tensor, dtype: torch.dtype, backend: LossBackend) -> Tensor:
    """A float64 gradient in the dtype that it is written in, the only rounding allowed. Triton's
    interpreter cuts the digits that bf16 does not hold, where a GPU rounds."""
    if backend is LossBackend.TRITON and dtype == torch.bfloat16:
        return (gradient.float().view(torch.int32) & -0x10000).view(torch.float32)
    return gradient.to(dtype)
