"""jsd_linear: the loss of hidden states is that of the logits that they would give."""

import itertools

import pytest
import torch
from loss_oracle import BETAS, TEMPERATURES, loss_and_gradient, relative_error
from torch import Tensor

from gkdplan.runtime.loss import jsd_linear
from gkdplan.vocab import LossBackend

pytestmark = pytest.mark.usefixtures("every_backend")

NUM_TOKENS, HIDDEN, TEACHER_HIDDEN, VOCAB = 23, 12, 20, 61
OBJECTIVES = list(itertools.product(BETAS, TEMPERATURES))


def draw(dtype: torch.dtype = torch.float64, vocab: int = VOCAB) -> list[Tensor]:
    """Student's hidden states and head (with gradient), teacher's, and the weights of a mean."""
    generator = torch.Generator().manual_seed(7)
    shapes = [
        (NUM_TOKENS, HIDDEN),
        (vocab, HIDDEN),
        (NUM_TOKENS, TEACHER_HIDDEN),
        (vocab, TEACHER_HIDDEN),
    ]
    hidden, head, teacher_hidden, teacher_head = (
        (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.6).to(dtype)
        for shape in shapes
    )
    weights = torch.full((NUM_TOKENS,), 1 / NUM_TOKENS, dtype=torch.float64)
    return [hidden.requires_grad_(), head.requires_grad_(), teacher_hidden, teacher_head, weights]


def expected_of(
    tensors: list[Tensor], beta: float, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients wrt hidden states and head, from whole float64 logits."""
    hidden, head, teacher_hidden, teacher_head, weights = (t.detach().double() for t in tensors)
    loss, gradient_NV = loss_and_gradient(
        hidden @ head.t(), teacher_hidden @ teacher_head.t(), weights, beta, temperature
    )
    return loss, gradient_NV @ head, gradient_NV.t() @ hidden


@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_float64_equals_the_definition(beta: float, temperature: float) -> None:
    tensors = draw()
    loss = jsd_linear(*tensors, beta=beta, temperature=temperature, chunk_tokens=10)
    loss.backward()
    expected, hidden_gradient, head_gradient = expected_of(tensors, beta, temperature)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(tensors[0].grad, hidden_gradient, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(tensors[1].grad, head_gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_gradcheck(beta: float, temperature: float, every_backend: LossBackend) -> None:
    """Entry by entry; under the interpreter, which is slow, along one random direction."""
    hidden, head, *rest = draw(vocab=9)
    assert torch.autograd.gradcheck(
        lambda h, w: jsd_linear(
            h, w, *rest, beta=beta, temperature=temperature, chunk_tokens=10, vocab_size=8
        ),
        (hidden, head),
        fast_mode=every_backend is LossBackend.TRITON,
    )


@pytest.mark.parametrize("chunk_tokens", [None, 1, 2, 7, 8, 22, 23, 24])
def test_the_size_of_a_chunk_changes_nothing(chunk_tokens: int | None) -> None:
    tensors = draw()
    jsd_linear(*tensors, beta=0.3, temperature=2.0, chunk_tokens=chunk_tokens).backward()
    _, hidden_gradient, head_gradient = expected_of(tensors, 0.3, 2.0)
    torch.testing.assert_close(tensors[0].grad, hidden_gradient, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(tensors[1].grad, head_gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("beta", BETAS)
def test_bf16_states_and_heads_are_multiplied_and_summed_in_float32(beta: float) -> None:
    tensors = draw(torch.bfloat16, vocab=9000)  # more rows than are widened at one time
    loss = jsd_linear(*tensors, beta=beta, chunk_tokens=10)
    loss.backward()
    expected, hidden_gradient, head_gradient = expected_of(tensors, beta)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for tensor, exact in ((tensors[0], hidden_gradient), (tensors[1], head_gradient)):
        assert tensor.grad.dtype == torch.bfloat16
        # one rounding to bf16, whose spacing is 2^-8: no entry is off by more than half of it
        assert relative_error(tensor.grad, exact) < 2**-9


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_ignored_tokens_may_hold_anything(poison: float) -> None:
    tensors = draw()
    weights = tensors[4]
    weights[[0, 5, 22]] = 0.0
    expected, hidden_gradient, head_gradient = expected_of(tensors, 0.5)
    with torch.no_grad():
        tensors[0][0], tensors[2][5] = poison, poison
        tensors[0][22], tensors[2][22] = poison, poison
    loss = jsd_linear(*tensors, beta=0.5, chunk_tokens=4)
    loss.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    assert torch.equal(tensors[0].grad[[0, 5, 22]], torch.zeros(3, HIDDEN, dtype=torch.float64))
    torch.testing.assert_close(tensors[0].grad, hidden_gradient, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(tensors[1].grad, head_gradient, rtol=1e-10, atol=1e-14)


def test_no_valid_token_gives_zero_loss_and_gradients() -> None:
    tensors = draw()
    loss = jsd_linear(*tensors[:4], torch.zeros(NUM_TOKENS), beta=0.5, chunk_tokens=10)
    loss.backward()
    assert float(loss) == 0.0
    assert not tensors[0].grad.any()
    assert not tensors[1].grad.any()


def test_padding_of_the_vocabulary_is_neither_multiplied_nor_trained() -> None:
    tensors = draw()
    with torch.no_grad():
        tensors[1][50:], tensors[3][50:] = float("nan"), 1e30
    loss = jsd_linear(*tensors, beta=0.5, chunk_tokens=10, vocab_size=50)
    loss.backward()
    cut = [tensors[0], tensors[1][:50], tensors[2], tensors[3][:50], tensors[4]]
    expected, hidden_gradient, head_gradient = expected_of(cut, 0.5)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(tensors[0].grad, hidden_gradient, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(tensors[1].grad[:50], head_gradient, rtol=1e-10, atol=1e-14)
    assert not tensors[1].grad[50:].any()


def test_gradients_are_scaled_by_what_follows_the_loss() -> None:
    tensors = draw()
    (jsd_linear(*tensors, beta=0.5, chunk_tokens=10) * -5.0).backward()
    _, hidden_gradient, head_gradient = expected_of(tensors, 0.5)
    torch.testing.assert_close(tensors[0].grad, -5.0 * hidden_gradient, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(tensors[1].grad, -5.0 * head_gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("trained", [(True, False), (False, True)])
def test_what_is_frozen_gets_no_gradient(trained: tuple[bool, bool]) -> None:
    tensors = draw()
    expected = expected_of(tensors, 0.5)[1:]
    for tensor, wanted in zip(tensors[:2], trained, strict=True):
        tensor.requires_grad_(wanted)
    jsd_linear(*tensors, beta=0.5, chunk_tokens=10).backward()
    for tensor, wanted, gradient in zip(tensors[:2], trained, expected, strict=True):
        if wanted:
            torch.testing.assert_close(tensor.grad, gradient, rtol=1e-10, atol=1e-14)
        else:
            assert tensor.grad is None


def test_teacher_has_no_gradient_and_none_is_made_under_no_grad() -> None:
    tensors = draw()
    tensors[2].requires_grad_()
    tensors[3].requires_grad_()
    jsd_linear(*tensors, beta=0.5, chunk_tokens=10).backward()
    assert tensors[2].grad is None
    assert tensors[3].grad is None
    with torch.no_grad():
        assert not jsd_linear(*tensors, beta=0.5, chunk_tokens=10).requires_grad


def test_a_head_used_twice_sums_its_gradients() -> None:
    """Two micro-batches, or an embedding tied to the head."""
    tensors = draw()
    _, _, head_gradient = expected_of(tensors, 0.5)
    for _ in range(2):
        jsd_linear(*tensors, beta=0.5, chunk_tokens=10).backward()
    torch.testing.assert_close(tensors[1].grad, 2 * head_gradient, rtol=1e-10, atol=1e-14)


def test_shapes_that_do_not_fit_are_refused() -> None:
    tensors = draw()
    with pytest.raises(ValueError, match=r"hidden \[N, H\], head \[V, H\]"):
        jsd_linear(*tensors[:3], tensors[3][:-1], tensors[4], beta=0.5, chunk_tokens=10)
    with pytest.raises(ValueError, match=r"23 tokens, but weights \(22,\)"):
        jsd_linear(*tensors[:4], tensors[4][:-1], beta=0.5, chunk_tokens=10)
    with pytest.raises(ValueError, match="chunk_tokens 0 is not above 0"):
        jsd_linear(*tensors, beta=0.5, chunk_tokens=0)
