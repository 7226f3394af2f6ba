"""Held-out divergence and cross-entropy against torch's own, on whole logits."""

import pytest
import torch
from loss_oracle import BETAS, token_losses
from measured_sums import divergence_and_cross_entropy
from torch import Tensor

from gkdplan.runtime.loss import token_measures
from gkdplan.runtime.loss.likeliest import likeliest_id
from gkdplan.runtime.loss.vocabulary import VocabularyShard

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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tokens_whose_likeliest_ids_are_the_same_agree(dtype: torch.dtype) -> None:
    hidden, head, _, _, labels = draw(dtype)
    teacher = hidden + torch.linspace(0.0, 2.0, 19, dtype=dtype)[:, None] * hidden.flip(1)
    measures = token_measures(
        hidden, head, teacher, head, labels, beta=0.5, chunk_tokens=7, vocab_size=33
    )
    first, of_teacher = (
        (states.double() @ head[:33].double().t()).argmax(dim=1) for states in (hidden, teacher)
    )
    assert 0 < int((first == of_teacher).sum()) < 19
    assert torch.equal(measures.agree_N, first == of_teacher)
    assert measures.sums()[2] == (first == of_teacher).sum()


def test_each_token_has_its_own_measures() -> None:
    tensors = draw()
    hidden, head, teacher_hidden, teacher_head, labels = tensors
    measures = token_measures(*tensors, beta=0.5, chunk_tokens=7)
    expected = token_losses(hidden @ head.t(), teacher_hidden @ teacher_head.t(), 0.5, 1.0)
    torch.testing.assert_close(measures.divergences_N, expected, rtol=1e-12, atol=1e-14)
    expected = torch.nn.functional.cross_entropy(hidden @ head.t(), labels, reduction="none")
    torch.testing.assert_close(measures.cross_entropies_N, expected, rtol=1e-12, atol=1e-14)


def test_of_equal_logits_the_smallest_id_is_first() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    shard = VocabularyShard(4, None, None)
    assert likeliest_id(logits, shard).tolist() == [1, 0]


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
