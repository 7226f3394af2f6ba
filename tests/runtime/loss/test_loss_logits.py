"""jsd_logits against its definition, and every way in which such losses have been wrong."""

import itertools

import pytest
import torch
from loss_oracle import (
    BETAS,
    TEMPERATURES,
    as_stored,
    floored_losses_and_gradient,
    loss_and_gradient,
    relative_error,
    token_losses,
)
from torch import Tensor

from gkdplan.runtime.loss import jsd_logits
from gkdplan.vocab import LossBackend

pytestmark = pytest.mark.usefixtures("every_backend")

OBJECTIVES = list(itertools.product(BETAS, TEMPERATURES))
INF = float("inf")


def draw(num_tokens: int, vocab: int, dtype: torch.dtype = torch.float32, scale: float = 1.5):
    """Student's logits, teacher's logits and the weights of a token mean."""
    generator = torch.Generator().manual_seed(num_tokens * 1000 + vocab)
    student, teacher = (
        (torch.randn(num_tokens, vocab, generator=generator, dtype=torch.float64) * scale).to(dtype)
        for _ in range(2)
    )
    weights = torch.full((num_tokens,), 1.0 / num_tokens, dtype=torch.float64)
    return student.requires_grad_(), teacher, weights


def gradient_of(loss: Tensor, student: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, student)
    return gradient


@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_float64_equals_the_definition(beta: float, temperature: float) -> None:
    student, teacher, weights = draw(21, 37, torch.float64)
    loss = jsd_logits(student, teacher, weights, beta=beta, temperature=temperature)
    expected, expected_gradient = loss_and_gradient(student, teacher, weights, beta, temperature)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)
    gradient = gradient_of(loss, student)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_float32_keeps_its_digits(beta: float, temperature: float) -> None:
    student, teacher, weights = draw(19, 50000)
    loss = jsd_logits(student, teacher, weights, beta=beta, temperature=temperature)
    expected, expected_gradient = loss_and_gradient(student, teacher, weights, beta, temperature)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert relative_error(gradient_of(loss, student), expected_gradient) < 1e-6


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_long_float32_row_keeps_its_digits(beta: float) -> None:
    """A softmax that sums 150,000 terms one after the other is off by 5e-6."""
    student, teacher, weights = draw(4, 150_000, scale=3.0)
    _, expected_gradient = loss_and_gradient(student, teacher, weights, beta, 1.0)
    loss = jsd_logits(student, teacher, weights, beta=beta)
    assert relative_error(gradient_of(loss, student), expected_gradient) < 1e-6


@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_gradcheck(beta: float, temperature: float) -> None:
    student, teacher, weights = draw(9, 7, torch.float64)
    assert torch.autograd.gradcheck(
        lambda logits: jsd_logits(
            logits, teacher, weights, beta=beta, temperature=temperature, vocab_size=6
        ),
        student,
    )


@pytest.mark.parametrize("beta", BETAS)
def test_bf16_logits_are_worked_on_in_float32(beta: float, every_backend: LossBackend) -> None:
    student, teacher, weights = draw(16, 4000, torch.bfloat16)
    loss = jsd_logits(student, teacher, weights, beta=beta, temperature=2.0)
    expected, expected_gradient = loss_and_gradient(student, teacher, weights, beta, 2.0)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    gradient = gradient_of(loss, student)
    assert gradient.dtype == torch.bfloat16
    stored = as_stored(expected_gradient, torch.bfloat16, every_backend)
    assert relative_error(gradient, stored) < 1e-4


@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_equal_models_give_zero_loss(beta: float, temperature: float) -> None:
    student, _, weights = draw(16, 3000, torch.bfloat16)
    loss = jsd_logits(
        student, student.detach().clone(), weights, beta=beta, temperature=temperature
    )
    assert abs(float(loss)) < 1e-12
    assert gradient_of(loss, student).abs().max() < 1e-9


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("distance", [1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_close_models_never_give_a_negative_loss(beta: float, distance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 0.1, 5.0):
        teacher = torch.randn(8, 30000, generator=generator) * scale + 12.0
        student = teacher + torch.randn(8, 30000, generator=generator) * distance
        for row in range(8):
            loss = jsd_logits(student[row, None], teacher[row, None], torch.ones(1), beta=beta)
            assert float(loss) >= -1e-7


def test_ends_are_the_kl_divergences_not_the_limits_of_jsd() -> None:
    student, teacher, weights = draw(5, 50, torch.float64)
    forward = jsd_logits(student, teacher, weights, beta=0.0)
    reverse = jsd_logits(student, teacher, weights, beta=1.0)
    log_q, log_p = (torch.log_softmax(x.detach(), dim=1) for x in (student, teacher))
    kl = torch.nn.functional.kl_div
    assert float(forward) == pytest.approx(
        float(kl(log_q, log_p, log_target=True, reduction="batchmean")), rel=1e-12
    )
    assert float(reverse) == pytest.approx(
        float(kl(log_p, log_q, log_target=True, reduction="batchmean")), rel=1e-12
    )
    assert float(jsd_logits(student, teacher, weights, beta=1e-6)) < 1e-4


def test_loss_temperature_has_no_square_factor() -> None:
    student, teacher, weights = draw(5, 50, torch.float64)
    cooled = jsd_logits(student / 4, teacher / 4, weights, beta=0.5)
    assert float(jsd_logits(student, teacher, weights, beta=0.5, temperature=4.0)) == pytest.approx(
        float(cooled), rel=1e-12
    )


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("masked", ["student", "teacher", "both"])
def test_masked_entries_are_finite_and_floored(beta: float, masked: str) -> None:
    student, teacher, weights = draw(6, 40, torch.float64)
    student, teacher = student.detach(), teacher.detach()
    if masked in ("student", "both"):
        student[:, 3:9] = -INF
    if masked in ("teacher", "both"):
        teacher[:, 3:9] = -INF
    expected, expected_gradient = floored_losses_and_gradient(student, teacher, beta)
    student.requires_grad_()
    loss = jsd_logits(student, teacher, weights, beta=beta)
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-12)
    torch.testing.assert_close(
        gradient_of(loss, student), expected_gradient / 6, rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("beta", BETAS)
def test_float32_survives_probabilities_that_underflow(beta: float) -> None:
    """exp(-200) is 0 in float32; KL still counts the 200 nats, JSD tends to its bound."""
    student = torch.tensor([[0.0, -200.0, -90.0], [5e4, -5e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-200.0, 0.0, -90.0], [5e3, 5e3, 0.0]])
    weights = torch.tensor([0.5, 0.5])
    loss = jsd_logits(student, teacher, weights, beta=beta)
    expected, expected_gradient = floored_losses_and_gradient(student, teacher, beta)
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-6)
    torch.testing.assert_close(
        gradient_of(loss, student), (expected_gradient / 2).float(), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("poison", [float("nan"), INF, -INF])
@pytest.mark.parametrize("inplace", [False, True])
def test_ignored_rows_may_hold_anything(beta: float, poison: float, inplace: bool) -> None:
    student, teacher, weights = draw(20, 30, torch.float64)
    weights = weights.clone()
    weights[[2, 3, 19]] = 0.0
    clean_loss, clean_gradient = loss_and_gradient(student, teacher, weights, beta, 1.0)
    student = student.detach().clone()
    student[2], teacher[3], student[19], teacher[19] = poison, poison, poison, poison
    student.requires_grad_()
    loss = jsd_logits(student, teacher, weights, beta=beta, inplace=inplace)
    loss.backward()
    assert float(loss) == pytest.approx(float(clean_loss), rel=1e-12)
    assert torch.equal(student.grad[[2, 3, 19]], torch.zeros(3, 30, dtype=torch.float64))
    torch.testing.assert_close(student.grad, clean_gradient, rtol=1e-10, atol=1e-15)


def test_no_valid_token_gives_zero_and_no_nan() -> None:
    student, teacher, weights = draw(4, 10)
    loss = jsd_logits(student, teacher, torch.zeros_like(weights), beta=0.5)
    assert float(loss) == 0.0
    assert torch.equal(gradient_of(loss, student), torch.zeros(4, 10))


def test_no_token_at_all_gives_zero() -> None:
    student = torch.zeros(0, 10, requires_grad=True)
    loss = jsd_logits(student, torch.zeros(0, 10), torch.zeros(0), beta=0.5)
    assert float(loss) == 0.0
    assert gradient_of(loss, student).shape == (0, 10)


def test_normaliser_in_the_weights_gives_the_mean_over_all_micro_batches() -> None:
    """Micro-batches of 3 and 9 tokens: the mean of their means would weigh tokens unequally."""
    student, teacher, _ = draw(12, 25, torch.float64)
    weights = torch.full((12,), 1 / 12, dtype=torch.float64)
    parts = [
        jsd_logits(student[rows], teacher[rows], weights[rows], beta=0.3)
        for rows in (slice(0, 3), slice(3, 12))
    ]
    mean = token_losses(student.detach(), teacher, 0.3, 1.0).mean()
    assert float(sum(parts)) == pytest.approx(float(mean), rel=1e-12)
    mean_of_means = token_losses(student.detach()[:3], teacher[:3], 0.3, 1.0).mean() / 2
    mean_of_means += token_losses(student.detach()[3:], teacher[3:], 0.3, 1.0).mean() / 2
    assert abs(float(mean_of_means) - float(mean)) > 1e-3


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_is_scaled_by_what_follows_the_loss(inplace: bool, dtype: torch.dtype) -> None:
    student, teacher, weights = draw(8, 60, dtype)
    _, expected = loss_and_gradient(student, teacher, weights, 0.5, 1.0)
    loss = jsd_logits(student, teacher, weights, beta=0.5, inplace=inplace)
    (loss * -3.0 + 7.0).backward()
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3  # bf16 holds 8 bits, rounded twice
    assert relative_error(student.grad, -3.0 * expected) < tolerance


def test_retained_graph_gives_the_same_gradient_again() -> None:
    student, teacher, weights = draw(8, 60)
    loss = 2.0 * jsd_logits(student, teacher, weights, beta=0.5)
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, student)
    assert torch.equal(first, kept)
    assert torch.equal(first, second)


def test_inplace_writes_the_gradient_into_the_logits() -> None:
    student, teacher, weights = draw(11, 45)
    _, expected = loss_and_gradient(student, teacher, weights, 0.5, 2.0)
    logits = student * 1.0
    loss = jsd_logits(
        logits, teacher, weights, beta=0.5, temperature=2.0, inplace=True, vocab_size=45
    )
    assert relative_error(logits, expected) < 1e-6
    assert relative_error(gradient_of(loss, student), expected) < 1e-6


def test_inplace_is_refused_where_the_logits_are_still_needed() -> None:
    student, teacher, weights = draw(4, 10)
    loss = jsd_logits(torch.exp(student), teacher, weights, beta=0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_gradient_nothing_is_written() -> None:
    student, teacher, weights = draw(4, 10)
    before = student.detach().clone()
    with torch.no_grad():
        loss = jsd_logits(student, teacher, weights, beta=0.5, inplace=True)
    assert not loss.requires_grad
    assert torch.equal(student.detach(), before)
    assert not jsd_logits(before, teacher, weights, beta=0.5, inplace=True).requires_grad


def test_teacher_has_no_gradient() -> None:
    student, teacher, weights = draw(4, 10)
    teacher.requires_grad_()
    jsd_logits(student, teacher, weights, beta=0.5).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("beta", BETAS)
def test_padding_of_the_vocabulary_has_no_mass(beta: float) -> None:
    student, teacher, weights = draw(10, 64, torch.float64)
    with torch.no_grad():
        student[:, 50:], teacher[:, 50:] = 30.0, float("nan")
    loss = jsd_logits(student, teacher, weights, beta=beta, vocab_size=50)
    expected, expected_gradient = loss_and_gradient(
        student.detach()[:, :50], teacher[:, :50], weights, beta, 1.0
    )
    gradient = gradient_of(loss, student)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(gradient[:, :50], expected_gradient, rtol=1e-10, atol=1e-15)
    assert torch.equal(gradient[:, 50:], torch.zeros(10, 14, dtype=torch.float64))


def test_logits_need_not_be_contiguous() -> None:
    student, teacher, weights = draw(10, 64)
    expected, expected_gradient = loss_and_gradient(student, teacher, weights, 0.5, 1.0)
    turned = student.detach().t().contiguous().t().requires_grad_()
    loss = jsd_logits(turned, teacher, weights, beta=0.5)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert relative_error(gradient_of(loss, turned), expected_gradient) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 1.5}, "beta 1.5"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"vocab_size": 11}, "true vocabulary of 11 ids in a padded one of 10"),
        ({"vocab_size": 0}, "true vocabulary of 0 ids"),
    ],
)
def test_impossible_objectives_are_refused(change: dict[str, float], message: str) -> None:
    student, teacher, weights = draw(4, 10)
    with pytest.raises(ValueError, match=message):
        jsd_logits(student, teacher, weights, **{"beta": 0.5, **change})


def test_logits_over_different_vocabularies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 10\), \(4, 12\), \(4,\)"):
        jsd_logits(torch.zeros(4, 10), torch.zeros(4, 12), torch.ones(4), beta=0.5)
    with pytest.raises(ValueError, match=r"\(5,\)"):
        jsd_logits(torch.zeros(4, 10), torch.zeros(4, 10), torch.ones(5), beta=0.5)
