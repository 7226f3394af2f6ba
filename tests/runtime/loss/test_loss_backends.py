"""The compiled and the Triton backend in every run: all that can be asked, at few and small sizes.

The tests of eager hold them too, with the grid.
"""

import itertools

import pytest
import torch
from loss_oracle import (
    BETAS,
    TEMPERATURES,
    as_stored,
    floored_losses_and_gradient,
    relative_error,
    token_losses,
    top_k_losses,
)
from measured_sums import divergence_and_cross_entropy
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

from gkdplan.runtime.loss import (
    TopK,
    jsd_linear,
    jsd_logits,
    triton_buckets,
    triton_rows,
)
from gkdplan.vocab import LossBackend

OBJECTIVES = list(itertools.product(BETAS, TEMPERATURES))
INF, ALPHA = float("inf"), 0.7
NUM_TOKENS, VOCAB, PADDED, TILE = 5, 41, 48, 16
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole tiles and a part of one."""
    monkeypatch.setattr(triton_rows, "TILE", TILE)
    monkeypatch.setattr(triton_buckets, "TILE", TILE)


def draw(dtype: torch.dtype, num_tokens: int = NUM_TOKENS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student's and teacher's logits, weights and labels; the second token has none of them."""
    generator = torch.Generator().manual_seed(5)
    student, teacher = (
        (torch.randn(num_tokens, PADDED, generator=generator, dtype=torch.float64) * 2).to(dtype)
        for _ in range(2)
    )
    weights = torch.rand(num_tokens, generator=generator, dtype=torch.float64) / num_tokens
    student[1], teacher[1], weights[1] = float("nan"), INF, 0.0
    student[:, VOCAB:], teacher[:, VOCAB:] = 50.0, float("nan")
    labels = torch.arange(num_tokens) * 17 % VOCAB
    labels[1] = -100
    return student, teacher, weights, labels


def expected_of(
    student: Tensor,
    teacher: Tensor | TopK,
    weights: Tensor,
    labels: Tensor,
    beta: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the tokens that count, of their true vocabulary, in float64."""
    counts = weights != 0
    logits = student[counts, :VOCAB].double().requires_grad_()
    if isinstance(teacher, TopK):
        known = teacher.of(counts)
        losses = top_k_losses(logits, known.ids_NK, known.log_buckets(), beta, temperature)
    else:
        losses = token_losses(logits, teacher[counts, :VOCAB], beta, temperature)
    losses = losses + ALPHA * cross_entropy(logits, labels[counts], reduction="none")
    loss = (losses * weights[counts]).sum()
    gradient = torch.zeros_like(student, dtype=torch.float64)
    (gradient[counts, :VOCAB],) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def check(
    backend: str, dtype: torch.dtype, beta: float, temperature: float, *, top_k: bool = False
) -> None:
    student, teacher, weights, labels = draw(dtype)
    side = teacher
    if top_k:
        log_probs = torch.log_softmax(teacher.double()[:, :VOCAB] / temperature, dim=-1)
        found, ids = log_probs.nan_to_num().topk(6, dim=-1)
        side = TopK(ids, found, log_probs.scatter(1, ids, -INF).logsumexp(dim=-1))
    expected, expected_gradient = expected_of(student, side, weights, labels, beta, temperature)
    for inplace in (False, True):
        logits = student.clone().requires_grad_()
        loss = jsd_logits(
            logits,
            side,
            weights,
            beta=beta,
            temperature=temperature,
            labels=labels,
            sft_alpha=ALPHA,
            inplace=inplace,
            vocab_size=VOCAB,
            backend=backend,
        )
        (gradient,) = torch.autograd.grad(-3.0 * loss, logits)
        assert float(loss.detach()) == pytest.approx(float(expected), rel=TOLERANCE[dtype])
        assert relative_error(gradient, -3.0 * expected_gradient) < TOLERANCE[dtype]
        assert not gradient[1].any()
        assert not gradient[:, VOCAB:].any()


@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_triton_equals_the_definition(beta: float, temperature: float) -> None:
    check("triton", torch.float64, beta, temperature)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_triton_keeps_the_digits_of_float32(beta: float) -> None:
    check("triton", torch.float32, beta, 2.0)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_triton_sums_up_buckets_of_likeliest_ids(beta: float) -> None:
    check("triton", torch.float64, beta, 2.0, top_k=True)


@pytest.mark.parametrize("beta", BETAS)
def test_triton_floors_what_is_masked(beta: float) -> None:
    student, teacher, weights, _ = draw(torch.float64)
    student, teacher = student[2:, :VOCAB], teacher[2:, :VOCAB]
    student[0, 3:30], teacher[1, 3:30] = -INF, -INF
    student[2, :5], teacher[2, :5] = -INF, -INF
    expected, expected_gradient = floored_losses_and_gradient(student, teacher, beta)
    logits = student.clone().requires_grad_()
    loss = jsd_logits(logits, teacher, weights[2:], beta=beta, backend="triton")
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == pytest.approx(float((expected * weights[2:]).sum()), rel=1e-12)
    torch.testing.assert_close(
        gradient, expected_gradient * weights[2:, None], rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("beta", BETAS)
def test_triton_writes_bf16(beta: float) -> None:
    student, teacher, weights, _ = draw(torch.bfloat16)
    student, teacher = student[2:, :VOCAB], teacher[2:, :VOCAB]
    exact = student.double().requires_grad_()
    expected = (token_losses(exact, teacher, beta, 1.0) * weights[2:]).sum()
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    logits = student.clone().requires_grad_()
    loss = jsd_logits(logits, teacher, weights[2:], beta=beta, backend="triton")
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    stored = as_stored(expected_gradient, torch.bfloat16, LossBackend.TRITON)
    assert relative_error(gradient, stored) < 1e-4


def test_one_graph_serves_every_size_beta_and_temperature_of_a_rule() -> None:
    """A graph takes seconds to compile; the second is that of the cross-entropy's log masses."""
    torch._dynamo.reset()
    counters.clear()
    for num_tokens, vocab, beta, temperature in ((30, 40, 0.5, 2.0), (23, 33, 0.1, 0.7)):
        hidden, head = (torch.randn(size, 4).requires_grad_() for size in (num_tokens, PADDED))
        teacher_hidden, teacher_head = torch.randn(num_tokens, 3), torch.randn(PADDED, 3)
        weights = torch.full((num_tokens,), 1 / num_tokens)
        labels = torch.arange(num_tokens)
        logits = (hidden.detach() @ head.detach()[:vocab].t()).double().requires_grad_()
        losses = token_losses(
            logits, teacher_hidden @ teacher_head[:vocab].t(), beta, temperature
        ) + ALPHA * cross_entropy(logits, labels, reduction="none")
        (expected,) = torch.autograd.grad(losses.mean(), logits)
        loss = jsd_linear(
            hidden,
            head,
            teacher_hidden,
            teacher_head,
            weights,
            beta=beta,
            temperature=temperature,
            labels=labels,
            sft_alpha=ALPHA,
            chunk_tokens=10,
            vocab_size=vocab,
            backend="compiled",
        )
        loss.backward()
        assert float(loss.detach()) == pytest.approx(float(losses.detach().mean()), rel=1e-6)
        assert relative_error(hidden.grad, expected @ head.detach()[:vocab].double()) < 1e-6
        assert relative_error(head.grad[:vocab], expected.t() @ hidden.detach().double()) < 1e-6
        assert counters["stats"]["unique_graphs"] <= 2


def test_held_out_figures_by_triton_are_those_of_eager() -> None:
    shapes = [(7, 4), (PADDED, 4), (7, 3), (PADDED, 3)]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    figures = [
        divergence_and_cross_entropy(
            *tensors, torch.arange(7), beta=0.5, chunk_tokens=3, vocab_size=VOCAB, backend=backend
        )
        for backend in ("triton", "eager")
    ]
    torch.testing.assert_close(*figures, rtol=1e-12, atol=0)


def test_a_backend_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, weights, _ = draw(torch.float32)
    with pytest.raises(ValueError, match="'cuda' is not a valid LossBackend"):
        jsd_logits(student, teacher, weights, beta=0.5, backend="cuda")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"C\+\+ compiler, but has no no-such-compiler"):
        jsd_logits(student, teacher, weights, beta=0.5, backend="compiled")
    monkeypatch.setattr(triton_rows.triton.knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match="triton backend needs a GPU, not the device cpu"):
        jsd_logits(student, teacher, weights, beta=0.5, backend="triton")
