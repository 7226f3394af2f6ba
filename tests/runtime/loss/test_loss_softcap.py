"""Bounded logits on either side: the loss, its gradients and the likeliest ids are those of logits
that are bounded first."""

import itertools

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from loss_oracle import BETAS, loss_and_gradient, relative_error
from measured_sums import divergence_and_cross_entropy
from test_loss_linear import NUM_TOKENS, VOCAB, draw
from torch import Tensor

from gkdplan.runtime.loss import (
    bound_,
    bounded,
    jsd_linear,
    jsd_logits,
    likeliest,
    top_k_linear,
)

CAPS = [(1.5, None), (None, 0.8), (1.5, 0.8)]
LABELS = torch.arange(NUM_TOKENS) * 5 % VOCAB


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def expected_of(
    tensors: list[Tensor], beta: float, caps: tuple[float | None, float | None], alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients wrt hidden states and head, by autograd through whole logits."""
    hidden, head = (x.detach().clone().requires_grad_() for x in tensors[:2])
    teacher = capped(tensors[2] @ tensors[3].t(), caps[1])
    student, weights = capped(hidden @ head.t(), caps[0]), tensors[4]
    loss, gradient = loss_and_gradient(student, teacher, weights, beta, 2.0)
    cross_entropies = torch.nn.functional.cross_entropy(student, LABELS, reduction="none")
    sft = alpha * (cross_entropies * weights).sum()
    grads = torch.autograd.grad((student * gradient).sum() + sft, (hidden, head))
    return loss + sft.detach(), *grads


@pytest.mark.usefixtures("every_backend")
@pytest.mark.parametrize(("beta", "caps"), itertools.product(BETAS, CAPS))
def test_the_loss_of_hidden_states_is_that_of_bounded_logits(
    beta: float, caps: tuple[float | None, float | None]
) -> None:
    tensors = draw()
    loss = jsd_linear(
        *tensors,
        beta=beta,
        temperature=2.0,
        chunk_tokens=10,
        labels=LABELS,
        sft_alpha=0.4,
        student_softcap=caps[0],
        teacher_softcap=caps[1],
    )
    loss.backward()
    expected, *gradients = expected_of(tensors, beta, caps, 0.4)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    for tensor, gradient in zip(tensors, gradients, strict=False):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("beta", BETAS)
def test_gradcheck(beta: float) -> None:
    hidden, head, *rest = draw(vocab=9)
    assert torch.autograd.gradcheck(
        lambda h, w: jsd_linear(
            h, w, *rest, beta=beta, chunk_tokens=10, student_softcap=0.7, teacher_softcap=0.9
        ),
        (hidden, head),
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_loss_of_stored_logits_may_put_its_gradient_in_their_place(beta: float) -> None:
    tensors = draw()
    teacher = bound_(tensors[2] @ tensors[3].t(), 0.8)
    logits = bounded(tensors[0] @ tensors[1].t(), 1.5)
    loss = jsd_logits(logits, teacher, tensors[4], beta=beta, temperature=2.0, inplace=True)
    loss.backward()
    expected, *gradients = expected_of(tensors, beta, (1.5, 0.8), 0.0)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    for tensor, gradient in zip(tensors, gradients, strict=False):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-10, atol=1e-14)


def test_likeliest_ids_and_evaluation_are_those_of_bounded_logits() -> None:
    tensors = draw()
    hidden, head, teacher_hidden, teacher_head, weights = (x.detach() for x in tensors)
    teacher = capped(teacher_hidden @ teacher_head.t(), 0.8)
    known = likeliest(teacher_hidden, teacher_head, 7, temperature=2.0, chunk_tokens=5, softcap=0.8)
    log_probs = (teacher / 2.0).log_softmax(dim=1).gather(1, known.ids_NK.long())
    torch.testing.assert_close(known.log_probs_NK.double(), log_probs, rtol=1e-6, atol=1e-6)

    sums = divergence_and_cross_entropy(
        *(hidden, head, teacher_hidden, teacher_head, LABELS),
        beta=0.3,
        chunk_tokens=10,
        student_softcap=1.5,
        teacher_softcap=0.8,
    )
    logits = capped(hidden @ head.t(), 1.5)
    divergence, _ = loss_and_gradient(logits, teacher, torch.ones_like(weights), 0.3, 1.0)
    cross_entropy = torch.nn.functional.cross_entropy(logits, LABELS, reduction="sum")
    torch.testing.assert_close(torch.stack(sums), torch.stack([divergence, cross_entropy]))


def test_a_top_k_loss_bounds_the_students_logits() -> None:
    tensors = draw()
    known = likeliest(tensors[2], tensors[3], 7, temperature=2.0, chunk_tokens=5, softcap=0.8)
    options = {"beta": 0.5, "temperature": 2.0, "labels": LABELS, "sft_alpha": 0.4}
    loss = top_k_linear(
        *(tensors[0], tensors[1], known, tensors[4]),
        chunk_tokens=10,
        student_softcap=1.5,
        **options,
    )
    loss.backward()
    hidden, head = (x.detach().clone().requires_grad_() for x in tensors[:2])
    expected = jsd_logits(capped(hidden @ head.t(), 1.5), known, tensors[4], **options)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(tensors[0].grad, hidden.grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(tensors[1].grad, head.grad, rtol=1e-10, atol=1e-14)


def test_two_processes_compute_what_one_computes() -> None:
    run_on_ranks(_as_one, 2)


def _as_one() -> None:
    caps = {"student_softcap": 1.5, "teacher_softcap": 0.8}
    for beta in BETAS:
        tensors = draw(vocab=40)
        options = {"beta": beta, "chunk_tokens": 10, "vocab_size": 33, **caps}
        expected = jsd_linear(*tensors, **options)
        expected.backward()
        hidden, teacher_hidden = tensors[0].detach().clone().requires_grad_(), tensors[2]
        here = slice(20 * dist.get_rank(), 20 * (dist.get_rank() + 1))
        head = tensors[1].detach()[here].clone().requires_grad_()
        shards = hidden, head, teacher_hidden, tensors[3][here], tensors[4]
        loss = jsd_linear(*shards, group=dist.group.WORLD, **options)
        loss.backward()
        dist.all_reduce(hidden.grad)
        assert float(loss) == pytest.approx(float(expected), rel=1e-12)
        assert relative_error(hidden.grad, tensors[0].grad) < 1e-12
        assert relative_error(head.grad, tensors[1].grad[here]) < 1e-12
