"""The loss over tensor groups of 2 and 4 processes equals the loss of one.

Every rank draws the same whole tensors, takes its shard, and compares with what it computes alone.
"""

import itertools
from collections import Counter
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from loss_oracle import BETAS, TEMPERATURES, relative_error
from torch import Tensor

from gkdplan.runtime.loss import backend as backends
from gkdplan.runtime.loss import jsd_linear, jsd_logits, token_measures
from gkdplan.vocab import LossBackend

NUM_TOKENS, PADDED_VOCAB = 21, 48
VOCAB_SIZES = (48, 41, 10)
"""At 4 ranks shards hold 12 ids: none is padded, the last one partly, all but the first wholly."""
INF = float("inf")


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5).to(dtype)


def shard_of(tensor: Tensor, dim: int = 0) -> Tensor:
    return tensor.chunk(dist.get_world_size(), dim=dim)[dist.get_rank()].contiguous()


def token_weights() -> Tensor:
    weights = torch.full((NUM_TOKENS,), 1 / NUM_TOKENS, dtype=torch.float64)
    weights[4] = 0.0
    return weights


@contextmanager
def counted_collectives():
    """Counts of the collectives that are called inside."""
    counts: Counter[str] = Counter()

    def counting(name: str):
        original = getattr(dist, name)

        def call(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        return patch.object(dist, name, call)

    names = ("all_gather_into_tensor", "all_reduce", "all_gather", "reduce_scatter_tensor")
    with counting(names[0]), counting(names[1]), counting(names[2]), counting(names[3]):
        yield counts


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * 1e-2)


JSD_COLLECTIVES = {"all_gather_into_tensor": 1, "all_reduce": 1}


def check_logits(student: Tensor, teacher: Tensor, tolerance: float, **objective) -> None:
    """jsd_logits of the shards against jsd_logits of the whole."""
    weights = token_weights()
    whole = student.clone().requires_grad_()
    expected = jsd_logits(whole, teacher, weights, **objective)
    (2.0 * expected).backward()
    for inplace in (False, True):
        shard = shard_of(student, dim=1).requires_grad_()
        with counted_collectives() as forward:
            loss = jsd_logits(
                shard,
                shard_of(teacher, dim=1),
                weights,
                group=dist.group.WORLD,
                inplace=inplace,
                **objective,
            )
        with counted_collectives() as backward:
            (2.0 * loss).backward()
        assert_equal(loss.detach(), expected.detach(), tolerance)
        error = (gathered(shard.grad, dim=1) - whole.grad).norm()
        # where a JSD saturates, its gradient vanishes: what is left of it is rounding
        assert error < tolerance * max(float(whole.grad.norm()), 1e-3)
        is_kl = objective["beta"] in (0.0, 1.0)
        assert forward == ({"all_gather_into_tensor": 1} if is_kl else JSD_COLLECTIVES)
        assert not backward


def gathered(tensor: Tensor, dim: int) -> Tensor:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, dim=dim)


def every_objective_of_logits() -> None:
    for beta, temperature, vocab_size in itertools.product(BETAS, TEMPERATURES, VOCAB_SIZES):
        objective = {"beta": beta, "temperature": temperature, "vocab_size": vocab_size}
        student, teacher = (draw(NUM_TOKENS, PADDED_VOCAB, seed=seed) for seed in (1, 2))
        check_logits(student, teacher, 1e-12, **objective)
        check_logits(student.float(), teacher.float(), 1e-6, **objective)


def far_apart_shards_of_logits() -> None:
    """Offsets of the logits, of single shards, and shards that hold nearly no mass."""
    for beta in BETAS:
        student, teacher = (draw(NUM_TOKENS, PADDED_VOCAB, seed=seed) for seed in (3, 4))
        student[:, :12] += 5.0
        teacher[:, 12:24] += 8.0
        check_logits(student + 100.0, teacher - 50.0, 1e-12, beta=beta)
        student[:, :12] += 40.0
        teacher[:, 12:24] += 300.0
        check_logits(student + 100.0, teacher - 50.0, 1e-12, beta=beta)


def masked_and_poisoned_logits() -> None:
    """-inf in an entry, in a whole shard of one side, and in a whole shard of both."""
    for beta in BETAS:
        student, teacher = (draw(NUM_TOKENS, PADDED_VOCAB, seed=seed) for seed in (5, 6))
        student[:, 3], teacher[:, 30], student[:, 31], teacher[:, 31] = -INF, -INF, -INF, -INF
        check_logits(student, teacher, 1e-12, beta=beta)
        for masked in ([student], [teacher], [student, teacher]):
            for tensor in masked:
                tensor[:, 24:] = -INF
            check_logits(student, teacher, 1e-12, beta=beta)
            for tensor, seed in ((student, 5), (teacher, 6)):
                tensor.copy_(draw(NUM_TOKENS, PADDED_VOCAB, seed=seed))
        student[4], teacher[4] = float("nan"), float("nan")  # the token of weight 0
        check_logits(student, teacher, 1e-12, beta=beta)


def every_objective_of_hidden_states() -> None:
    weights = token_weights()
    for beta, temperature, vocab_size in itertools.product(BETAS, TEMPERATURES, VOCAB_SIZES):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            tensors = [
                draw(*shape, seed=seed, dtype=dtype)
                for seed, shape in enumerate([(NUM_TOKENS, 8), (48, 8), (NUM_TOKENS, 16), (48, 16)])
            ]
            hidden, head, teacher_hidden, teacher_head = tensors
            for states in (hidden, teacher_hidden):
                states.mul_(0.2)  # logits of order 1
            hidden.requires_grad_(), head.requires_grad_()
            objective = {"beta": beta, "temperature": temperature, "vocab_size": vocab_size}
            expected = jsd_linear(*tensors, weights, chunk_tokens=5, **objective)
            expected.backward()
            hidden_part = hidden.detach().clone().requires_grad_()
            head_part = shard_of(head.detach()).requires_grad_()
            with counted_collectives() as forward:
                loss = jsd_linear(
                    hidden_part,
                    head_part,
                    teacher_hidden,
                    shard_of(teacher_head),
                    weights,
                    group=dist.group.WORLD,
                    chunk_tokens=5,
                    **objective,
                )
            with counted_collectives() as backward:
                loss.backward()
            assert_equal(loss.detach(), expected.detach(), tolerance)
            assert relative_error(gathered(head_part.grad, dim=0), head.grad) < tolerance
            dist.all_reduce(hidden_part.grad)  # each rank has its share, as documented
            assert relative_error(hidden_part.grad, hidden.grad) < tolerance
            num_chunks = -(-(NUM_TOKENS - 1) // 5)  # of the valid tokens
            assert forward["all_gather_into_tensor"] == num_chunks > 1
            assert forward["all_reduce"] == (0 if beta in (0.0, 1.0) else num_chunks)
            assert not backward


def no_valid_token() -> None:
    shard = shard_of(draw(NUM_TOKENS, PADDED_VOCAB, seed=1), dim=1).requires_grad_()
    for num_tokens in (NUM_TOKENS, 0):
        loss = jsd_logits(
            shard[:num_tokens],
            shard.detach()[:num_tokens],
            torch.zeros(num_tokens),
            beta=0.5,
            group=dist.group.WORLD,
        )
        assert float(loss) == 0.0
    states, head = draw(NUM_TOKENS, 8, seed=1), draw(12, 8, seed=2).requires_grad_()
    loss = jsd_linear(
        states,
        head,
        states,
        head,
        torch.zeros(NUM_TOKENS),
        beta=0.5,
        chunk_tokens=10,
        group=dist.group.WORLD,
    )
    loss.backward()
    assert float(loss) == 0.0
    assert not head.grad.any()


def held_out_evaluation() -> None:
    hidden, head = draw(NUM_TOKENS, 8, seed=1), draw(PADDED_VOCAB, 8, seed=2)
    teacher_hidden, teacher_head = draw(NUM_TOKENS, 16, seed=3), draw(PADDED_VOCAB, 16, seed=4)
    for beta, vocab_size in itertools.product(BETAS, VOCAB_SIZES):
        labels = torch.arange(NUM_TOKENS) * 7 % vocab_size
        objective = {"beta": beta, "temperature": 2.0, "vocab_size": vocab_size, "chunk_tokens": 6}
        expected = token_measures(hidden, head, teacher_hidden, teacher_head, labels, **objective)
        actual = token_measures(
            hidden,
            shard_of(head),
            teacher_hidden,
            shard_of(teacher_head),
            labels,
            group=dist.group.WORLD,
            **objective,
        )
        assert_equal(actual.divergences_N, expected.divergences_N, 1e-12)
        assert_equal(actual.cross_entropies_N, expected.cross_entropies_N, 1e-12)
        assert torch.equal(actual.agree_N, expected.agree_N)


def everything() -> None:
    every_objective_of_logits()
    far_apart_shards_of_logits()
    masked_and_poisoned_logits()
    every_objective_of_hidden_states()
    no_valid_token()
    held_out_evaluation()


def everything_by(backend: LossBackend) -> None:
    """Each rule, each kind of shard and each place of a token once: the interpreter takes a second
    for what a kernel does in microseconds."""
    few = {"BETAS": (0.0, 0.3, 1.0), "TEMPERATURES": (2.0,), "VOCAB_SIZES": (41, 10)}
    with (
        patch.dict(backends.DEFAULT_BACKEND, cpu=backend),
        patch.dict(globals(), few | {"NUM_TOKENS": 7}),
    ):
        everything()


def each_rule_by(backend: LossBackend, vocab_size: int) -> None:
    """Of one vocabulary, since the interpreter is slow, and each shape is compiled."""
    with patch.dict(backends.DEFAULT_BACKEND, cpu=backend):
        for beta in (0.0, 0.5, 1.0):
            student, teacher = (draw(NUM_TOKENS, PADDED_VOCAB, seed=seed) for seed in (1, 2))
            student[:, 3], teacher[:, 30], teacher[:, 24:] = -INF, -INF, -INF
            student[4] = float("nan")  # the token of weight 0
            check_logits(student, teacher, 1e-12, beta=beta, vocab_size=vocab_size)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_tensor_group_computes_what_one_process_computes(num_ranks: int) -> None:
    run_on_ranks(everything, num_ranks)


def test_triton_over_a_tensor_group_computes_what_one_process_computes() -> None:
    run_on_ranks(each_rule_by, 2, LossBackend.TRITON, 41)


@pytest.mark.grid
@pytest.mark.parametrize("vocab_size", [41, 10], ids=["partly padded", "wholly padded"])
def test_so_does_a_compiled_loss(vocab_size: int) -> None:
    run_on_ranks(each_rule_by, 2, LossBackend.COMPILED, vocab_size, timeout_s=600)


@pytest.mark.grid
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_triton_computes_everything_that_eager_does(num_ranks: int) -> None:
    run_on_ranks(everything_by, num_ranks, LossBackend.TRITON, timeout_s=1800)
