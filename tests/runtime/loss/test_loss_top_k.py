"""A teacher of which only the K likeliest ids are known, and cross-entropy beside any teacher."""

import itertools

import pytest
import torch
from loss_oracle import (
    BETAS,
    TEMPERATURES,
    as_stored,
    relative_error,
    token_losses,
    top_k_losses,
)
from torch import Tensor

from gkdplan.runtime.loss import (
    TopK,
    jsd_linear,
    jsd_logits,
    likeliest,
    top_k_linear,
    with_tail,
)
from gkdplan.vocab import LossBackend

pytestmark = pytest.mark.usefixtures("every_backend")

OBJECTIVES = list(itertools.product(BETAS, TEMPERATURES))
INF = float("inf")


def draw(num_tokens: int, vocab: int, dtype: torch.dtype = torch.float64, scale: float = 1.5):
    """Student's logits, teacher's logits and the weights of a token mean."""
    generator = torch.Generator().manual_seed(num_tokens * 1000 + vocab)
    student, teacher = (
        (torch.randn(num_tokens, vocab, generator=generator, dtype=torch.float64) * scale).to(dtype)
        for _ in range(2)
    )
    weights = torch.rand(num_tokens, generator=generator, dtype=torch.float64) / num_tokens
    return student.requires_grad_(), teacher, weights


def known_of(teacher: Tensor, k: int, temperature: float, *, has_tail: bool = True) -> TopK:
    """What is known of whole logits, in float64."""
    log_probs = torch.log_softmax(teacher.double() / temperature, dim=-1)
    found, ids = log_probs.topk(k, dim=-1)
    tail = log_probs.scatter(1, ids, -INF).logsumexp(dim=-1)
    return TopK(ids, found, tail if has_tail else None)


def expected_of(
    student: Tensor, teacher: TopK, weights: Tensor, beta: float, temperature: float
) -> tuple[Tensor, Tensor]:
    student = student.detach().double().requires_grad_()
    ids, log_buckets = teacher.ids_NK.long(), teacher.log_buckets()
    loss = (top_k_losses(student, ids, log_buckets, beta, temperature) * weights.double()).sum()
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def gradient_of(loss: Tensor, student: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, student)
    return gradient


@pytest.mark.parametrize("has_tail", [True, False])
@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_float64_equals_the_definition(beta: float, temperature: float, has_tail: bool) -> None:
    student, teacher, weights = draw(21, 37)
    known = known_of(teacher, 5, temperature, has_tail=has_tail)
    expected, expected_gradient = expected_of(student, known, weights, beta, temperature)
    for inplace in (False, True):
        logits = student * 1.0
        loss = jsd_logits(
            logits, known, weights, beta=beta, temperature=temperature, inplace=inplace
        )
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)
        gradient = gradient_of(-3.0 * loss, logits)
        torch.testing.assert_close(gradient, -3.0 * expected_gradient, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_logits_keep_their_digits(
    beta: float, dtype: torch.dtype, every_backend: LossBackend
) -> None:
    student, teacher, weights = draw(9, 50_000, dtype, scale=3.0)
    known = known_of(teacher, 64, 0.9)
    narrow = TopK(known.ids_NK.int(), known.log_probs_NK.float(), known.tail_N.float())
    expected, expected_gradient = expected_of(student, narrow, weights, beta, 0.9)
    loss = jsd_logits(student, narrow, weights, beta=beta, temperature=0.9)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    stored = as_stored(expected_gradient, dtype, every_backend)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-4
    assert relative_error(gradient_of(loss, student), stored) < tolerance


@pytest.mark.parametrize("beta", BETAS)
def test_all_ids_known_is_the_whole_divergence(beta: float) -> None:
    student, teacher, weights = draw(7, 11)
    whole = jsd_logits(student, teacher, weights, beta=beta, temperature=2.0)
    known = jsd_logits(student, known_of(teacher, 11, 2.0), weights, beta=beta, temperature=2.0)
    assert float(known) == pytest.approx(float(whole), rel=1e-12)
    gradients = gradient_of(known, student), gradient_of(whole, student)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("beta", BETAS)
def test_buckets_are_never_further_apart_than_ids_and_as_far_where_tails_are_alike(
    beta: float,
) -> None:
    student, teacher, weights = draw(30, 40)
    known = known_of(teacher, 6, 1.0)
    whole = token_losses(student.detach(), teacher, beta, 1.0)
    for row in range(30):
        one = torch.nn.functional.one_hot(torch.tensor(row), 30)
        bucketed = float(jsd_logits(student, known, one, beta=beta))
        assert 0.0 < bucketed < float(whole[row])
    alike = student.detach().scatter_add(1, known.ids_NK, torch.ones(30, 6, dtype=torch.float64))
    same_ids = TopK(known.ids_NK, *_buckets_of(alike, known.ids_NK))
    exact = float((token_losses(student.detach(), alike, beta, 1.0) * weights).sum())
    assert float(jsd_logits(student, same_ids, weights, beta=beta)) == pytest.approx(exact)


def _buckets_of(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    log_probs = torch.log_softmax(logits, dim=-1)
    return log_probs.gather(1, ids), log_probs.scatter(1, ids, -INF).logsumexp(dim=-1)


@pytest.mark.parametrize("beta", BETAS)
def test_a_teacher_like_the_student_gives_no_loss_and_no_gradient(beta: float) -> None:
    student, _, weights = draw(21, 37, torch.float32)
    loss = jsd_logits(student, known_of(student.detach(), 5, 1.0), weights, beta=beta)
    assert float(loss) < 1e-8
    assert gradient_of(loss, student).abs().max() < 1e-8


@pytest.mark.parametrize("beta", BETAS)
def test_masked_logits_are_ids_that_are_not_there(beta: float) -> None:
    student, teacher, weights = draw(9, 20)
    teacher[:, 12:] = -INF
    known = known_of(teacher, 4, 1.0)
    expected, expected_gradient = expected_of(student[:, :15], known, weights, beta, 1.0)
    with torch.no_grad():
        student[:, 15:] = -INF
    loss = jsd_logits(student, known, weights, beta=beta)
    gradient = gradient_of(loss, student)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(gradient[:, :15], expected_gradient, rtol=1e-10, atol=1e-15)
    assert not gradient[:, 15:].any()


@pytest.mark.parametrize("beta", BETAS)
def test_a_student_without_a_tail_or_without_a_kept_id_gives_numbers(beta: float) -> None:
    student, teacher, weights = draw(6, 12)
    known = known_of(teacher, 3, 1.0)
    with torch.no_grad():
        student.scatter_(1, known.ids_NK[:, :1], -INF)
        student[3:] = torch.full_like(student[3:], -INF).scatter(1, known.ids_NK[3:], 0.5)
    loss = jsd_logits(student, known, weights, beta=beta)
    gradient = gradient_of(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    # a divergence's gradient of all logits sums to 0, but where a floor holds an entry
    if beta not in (0.0, 1.0):
        assert gradient.sum(dim=1).abs().max() < 1e-12


def test_ignored_tokens_may_hold_anything_and_padding_is_not_trained() -> None:
    student, teacher, weights = draw(9, 20)
    weights[[0, 4]] = 0.0
    known = known_of(teacher[:, :17], 4, 2.0)
    expected, expected_gradient = expected_of(student[:, :17], known, weights, 0.3, 2.0)
    with torch.no_grad():
        student[0], student[:, 17:] = float("nan"), float("nan")
        known.log_probs_NK[4] = float("nan")
    loss = jsd_logits(student, known, weights, beta=0.3, temperature=2.0, vocab_size=17)
    gradient = gradient_of(loss, student)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(gradient[:, :17], expected_gradient, rtol=1e-10, atol=1e-15)
    assert not gradient[:, 17:].any()


def states_of(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    hidden, head = (
        (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.6).to(dtype)
        for shape in ((23, 12), (61, 12))
    )
    return hidden.requires_grad_(), head.requires_grad_()


@pytest.mark.parametrize("sft_alpha", [0.0, 0.7])
@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_hidden_states_give_the_loss_of_their_logits(
    beta: float, temperature: float, sft_alpha: float
) -> None:
    hidden, head = states_of()
    _, teacher, weights = draw(23, 61)
    weights[5] = 0.0
    known, labels = known_of(teacher, 5, temperature), torch.arange(23) * 7 % 61
    options = {"beta": beta, "temperature": temperature}
    options |= {"labels": labels, "sft_alpha": sft_alpha}
    loss = top_k_linear(hidden, head, known, weights, chunk_tokens=7, **options)
    loss.backward()
    logits = (hidden @ head.t()).detach().requires_grad_()
    expected = jsd_logits(logits, known, weights, **options)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(hidden.grad, logits.grad @ head, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(head.grad, logits.grad.t() @ hidden, rtol=1e-10, atol=1e-14)


def with_cross_entropy(
    student: Tensor, divergence: Tensor, weights: Tensor, labels: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """The definition, at temperature 1 whatever the divergence's, and autograd's gradient."""
    cross_entropy = torch.nn.functional.cross_entropy(student, labels, reduction="none")
    loss = ((divergence + alpha * cross_entropy) * weights.double()).sum()
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("beta", "temperature"), OBJECTIVES)
def test_cross_entropy_of_labels_is_added(
    beta: float, temperature: float, dtype: torch.dtype
) -> None:
    student, teacher, weights = draw(21, 500, dtype)
    labels = torch.arange(21) * 23 % 500
    exact = student.detach().double().requires_grad_()
    known = known_of(teacher, 5, temperature)
    divergences = {
        teacher: token_losses(exact, teacher, beta, temperature),
        known: top_k_losses(exact, known.ids_NK, known.log_buckets(), beta, temperature),
    }
    for side, divergence in divergences.items():
        expected = with_cross_entropy(exact, divergence, weights, labels, 0.7)
        for inplace in (False, True):
            logits = student * 1.0
            loss = jsd_logits(
                logits,
                side,
                weights,
                beta=beta,
                temperature=temperature,
                labels=labels,
                sft_alpha=0.7,
                inplace=inplace,
            )
            tolerance = 1e-12 if dtype == torch.float64 else 1e-6
            assert float(loss) == pytest.approx(float(expected[0]), rel=tolerance)
            assert relative_error(gradient_of(loss, logits), expected[1]) < tolerance


def test_labels_of_ignored_tokens_are_not_read() -> None:
    student, teacher, weights = draw(9, 20)
    weights[2] = 0.0
    labels = torch.arange(9)
    options = {"beta": 0.5, "sft_alpha": 2.0}
    expected = jsd_logits(student, teacher, weights, labels=labels, **options)
    with torch.no_grad():
        student[2] = float("nan")
    labels[2] = -100
    loss = jsd_logits(student, teacher, weights, labels=labels, **options)
    assert float(loss) == float(expected)
    assert not gradient_of(loss, student)[2].any()


def test_what_does_not_fit_is_refused() -> None:
    student, teacher, weights = draw(9, 20)
    labels = torch.arange(9)
    with pytest.raises(ValueError, match=r"sft_alpha -1\.0 is below 0"):
        jsd_logits(student, teacher, weights, beta=0.5, labels=labels, sft_alpha=-1.0)
    with pytest.raises(ValueError, match=r"sft_alpha is 1\.0, but there are no labels"):
        jsd_logits(student, teacher, weights, beta=0.5, sft_alpha=1.0)
    with pytest.raises(ValueError, match=r"9 tokens, but labels \(8,\)"):
        jsd_logits(student, teacher, weights, beta=0.5, labels=labels[1:], sft_alpha=1.0)
    labels[3] = 20
    with pytest.raises(ValueError, match="a label lies outside the vocabulary of 20 ids"):
        jsd_logits(student, teacher, weights, beta=0.5, labels=labels, sft_alpha=1.0)
    known = known_of(teacher, 4, 1.0)
    for wrong in (
        known.of(torch.arange(8)),
        TopK(known.ids_NK, known.log_probs_NK[:, :3], known.tail_N),
        TopK(known.ids_NK, known.log_probs_NK, known.tail_N[1:]),
        TopK(known.ids_NK[:, 0], known.log_probs_NK[:, 0], known.tail_N),
    ):
        with pytest.raises(ValueError, match=r"ids \[N, K\], log-probs \[N, K\] and tail \[N\]"):
            jsd_logits(student, wrong, weights, beta=0.5)


def test_a_tail_is_what_the_log_probs_leave_of_one() -> None:
    _, teacher, _ = draw(9, 2000)
    known = known_of(teacher, 64, 1.0)
    rest = with_tail(known.ids_NK, known.log_probs_NK).tail_N
    torch.testing.assert_close(rest, known.tail_N, rtol=1e-9, atol=0)
    sure = torch.tensor([[1.0, 1e-9]]).log()
    assert float(with_tail(torch.tensor([[3, 5]]), sure).tail_N.exp()) == pytest.approx(2**-23)


def test_stored_and_linear_agree_without_a_top_k_too() -> None:
    hidden, head = states_of()
    _, teacher, weights = draw(23, 61)
    labels = torch.arange(23) * 7 % 61
    options = {"beta": 0.3, "labels": labels, "sft_alpha": 1.5}
    loss = jsd_linear(hidden, head, teacher, torch.eye(61).double(), weights, **options)
    expected = jsd_logits((hidden @ head.t()).detach(), teacher, weights, **options)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_likeliest_ids_of_hidden_states_are_those_of_their_logits(dtype: torch.dtype) -> None:
    hidden, head = states_of(dtype)
    logits = hidden.detach().double() @ head.detach().double().t()
    expected = known_of(logits[:, :50], 7, 0.8)
    known = likeliest(hidden, head, 7, temperature=0.8, chunk_tokens=5, vocab_size=50)
    assert torch.equal(known.ids_NK.long(), expected.ids_NK)
    assert [known.ids_NK.dtype, known.tail_N.dtype] == [torch.int32, torch.float32]
    torch.testing.assert_close(
        known.log_probs_NK.double(), expected.log_probs_NK, rtol=0, atol=1e-5
    )
    torch.testing.assert_close(known.tail_N.double(), expected.tail_N, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="top 51 of a vocabulary of 50 ids"):
        likeliest(hidden, head, 51, temperature=1.0, chunk_tokens=5, vocab_size=50)
