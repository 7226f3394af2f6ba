"""Held-out divergence and cross-entropy against torch's own, on whole logits."""

import pytest
import torch
from loss_oracle import BETAS, token_losses
from torch import Tensor

from gkdplan.runtime.loss import divergence_and_cross_entropy

pytestmark = pytest.mark.usefixtures("every_backend")


def draw(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(19, 8), (40, 8), (19, 16), (40, 16)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    labels = torch.randint(33, (19,), generator=generator)
    return [*(tensor.to(dtype) for tensor in tensors), labels]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_sums_over_tokens_over_the_true_vocabulary(beta: float, dtype: torch.dtype) -> None:
    tensors = draw(dtype)
    hidden, head, teacher_hidden, teacher_head, labels = tensors
    logits = hidden.double() @ head[:33].double().t()
    teacher_logits = teacher_hidden.double() @ teacher_head[:33].double().t()
    divergence, cross_entropy = divergence_and_cross_entropy(
        *tensors, beta=beta, temperature=2.0, chunk_tokens=7, vocab_size=33
    )
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    expected = token_losses(logits, teacher_logits, beta, 2.0).sum()
    assert float(divergence) == pytest.approx(float(expected), rel=tolerance)
    # at temperature 1, whatever the divergence's
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    assert float(cross_entropy) == pytest.approx(float(expected), rel=tolerance)


def test_no_tokens_sum_to_zero() -> None:
    hidden, head, teacher_hidden, teacher_head, labels = draw()
    sums = divergence_and_cross_entropy(
        hidden[:0], head, teacher_hidden[:0], teacher_head, labels[:0], beta=0.5, chunk_tokens=10
    )
    assert [float(total) for total in sums] == [0.0, 0.0]


def test_no_graph_is_kept() -> None:
    tensors = draw()
    tensors[0].requires_grad_()
    tensors[1].requires_grad_()
    sums = divergence_and_cross_entropy(*tensors, beta=0.5, chunk_tokens=10)
    assert not any(total.requires_grad for total in sums)


def test_labels_outside_the_vocabulary_are_refused() -> None:
    tensors = draw()
    tensors[4][3] = 33
    with pytest.raises(ValueError, match="a label lies outside the vocabulary of 33 ids"):
        divergence_and_cross_entropy(*tensors, beta=0.5, chunk_tokens=10, vocab_size=33)
    with pytest.raises(ValueError, match=r"19 tokens, but labels \(18,\)"):
        divergence_and_cross_entropy(*tensors[:4], tensors[4][:-1], beta=0.5, chunk_tokens=10)
