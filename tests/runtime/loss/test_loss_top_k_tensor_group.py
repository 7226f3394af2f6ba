"""A top-k teacher and cross-entropy over a tensor group equal those of one process."""

import itertools

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from loss_oracle import BETAS, relative_error
from torch import Tensor

from gkdplan.runtime.loss import TopK, jsd_logits, likeliest, top_k_linear

NUM_TOKENS, PADDED_VOCAB, K = 21, 48, 14
VOCAB_SIZES = (48, 41, 20)
"""A shard of 2 ranks holds 24 ids: none is padded, the last partly, wholly; of 20 ids on 2 ranks
the second has none, so that it has fewer than K."""
INF = float("inf")


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5).to(dtype)


def shard_of(tensor: Tensor, dim: int = 0) -> Tensor:
    return tensor.chunk(dist.get_world_size(), dim=dim)[dist.get_rank()].contiguous()


def gathered(tensor: Tensor, dim: int) -> Tensor:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, dim=dim)


def weights_and_labels(vocab_size: int) -> tuple[Tensor, Tensor]:
    weights = torch.full((NUM_TOKENS,), 1 / NUM_TOKENS, dtype=torch.float64)
    weights[4] = 0.0
    return weights, torch.arange(NUM_TOKENS) * 7 % vocab_size


def check_logits(student: Tensor, teacher: Tensor | TopK, **options: object) -> None:
    whole = student.clone().requires_grad_()
    weights, labels = weights_and_labels(options["vocab_size"])
    options |= {"weights": weights, "labels": labels}
    expected = jsd_logits(whole, teacher, **options)
    expected.backward()
    mine = shard_of(teacher, dim=1) if isinstance(teacher, Tensor) else teacher
    for inplace in (False, True):
        shard = shard_of(student, dim=1).requires_grad_()
        loss = jsd_logits(shard, mine, group=dist.group.WORLD, inplace=inplace, **options)
        loss.backward()
        assert float(loss) == pytest.approx(float(expected), rel=1e-12)
        assert relative_error(gathered(shard.grad, dim=1), whole.grad) < 1e-12


def every_objective_of_logits() -> None:
    for beta, vocab_size in itertools.product(BETAS, VOCAB_SIZES):
        student, teacher = (draw(NUM_TOKENS, PADDED_VOCAB, seed=seed) for seed in (1, 2))
        student[4], student[:, 2] = float("nan"), -INF
        student[:, 24:] += 30.0
        teacher[6, 24:] -= 50.0
        known = likeliest(
            teacher,
            torch.eye(PADDED_VOCAB).double(),
            K,
            temperature=2.0,
            chunk_tokens=5,
            vocab_size=vocab_size,
        )
        for side in (known, TopK(known.ids_NK, known.log_probs_NK, None), teacher):
            for sft_alpha in (0.0, 0.7):
                options = {"temperature": 2.0, "sft_alpha": sft_alpha, "vocab_size": vocab_size}
                check_logits(student, side, beta=beta, **options)


def every_objective_of_hidden_states() -> None:
    for beta, vocab_size in itertools.product(BETAS, VOCAB_SIZES):
        hidden, head = draw(NUM_TOKENS, 8, seed=1), draw(PADDED_VOCAB, 8, seed=2)
        teacher_hidden, teacher_head = draw(NUM_TOKENS, 16, seed=3), draw(PADDED_VOCAB, 16, seed=4)
        sizes = {"chunk_tokens": 5, "vocab_size": vocab_size, "temperature": 0.9}
        world = {"group": dist.group.WORLD, **sizes}
        known = likeliest(teacher_hidden, shard_of(teacher_head), K, **world)
        alone = likeliest(teacher_hidden, teacher_head, K, **sizes)
        assert torch.equal(known.ids_NK, alone.ids_NK)
        torch.testing.assert_close(known.log_probs_NK, alone.log_probs_NK, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(known.tail_N, alone.tail_N, rtol=1e-6, atol=1e-6)

        hidden.mul_(0.2).requires_grad_(), head.requires_grad_()
        weights, labels = weights_and_labels(vocab_size)
        options = {"beta": beta, "labels": labels, "sft_alpha": 0.3}
        expected = top_k_linear(hidden, head, known, weights, **options, **sizes)
        expected.backward()
        hidden_part = hidden.detach().clone().requires_grad_()
        head_part = shard_of(head.detach()).requires_grad_()
        loss = top_k_linear(hidden_part, head_part, known, weights, **options, **world)
        loss.backward()
        assert float(loss) == pytest.approx(float(expected), rel=1e-12)
        assert relative_error(gathered(head_part.grad, dim=0), head.grad) < 1e-12
        dist.all_reduce(hidden_part.grad)  # each rank has its share
        assert relative_error(hidden_part.grad, hidden.grad) < 1e-12


def everything() -> None:
    every_objective_of_logits()
    every_objective_of_hidden_states()


def test_two_processes_compute_what_one_computes() -> None:
    run_on_ranks(everything, 2)
