"""The loss of hidden states and output heads beside TRL's, and beside its own matrix products, on
one CPU thread.

    python benchmarks/heads.py [--tokens 1024] [--vocab 32000] [--beta 0.5] [--turns 2]

TRL has two ways: both models' whole logits and `GKDTrainer.generalized_jsd_loss`, and the chunked
divergence of `DistillationTrainer`, of which a CPU runs the version without Triton. All give the
loss and the gradients of the student's hidden states and head; they are compared before they are
timed.
"""

import argparse
from dataclasses import dataclass
from functools import partial

import torch
from beside.record import Measured, ratio_at_most, record
from beside.turns import Costs, backends, take_turns
from torch import Tensor
from trl.experimental.gkd import GKDTrainer
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from gkdplan.runtime.loss import jsd_linear

STUDENT_HIDDEN, TEACHER_HIDDEN = 1024, 2048
CHUNK_TOKENS = 256
WHOLE, CHUNKED = "TRL whole logits", "TRL chunked divergence"
PRODUCTS = "its matrix products alone"
CHECKED_TOKENS = 32


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states [N, H] and heads [V, H] of both models."""

    hidden: Tensor
    head: Tensor
    teacher_hidden: Tensor
    teacher_head: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.hidden, self.head, self.teacher_hidden, self.teacher_head

    def first(self, num_tokens: int) -> "States":
        hidden = self.hidden.detach()[:num_tokens].requires_grad_()
        return States(hidden, self.head, self.teacher_hidden[:num_tokens], self.teacher_head)

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        return loss.detach(), *torch.autograd.grad(loss, (self.hidden, self.head))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    is_whole = arguments == parser.parse_args([])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    states = States(
        torch.randn(arguments.tokens, STUDENT_HIDDEN).requires_grad_(),
        torch.randn(arguments.vocab, STUDENT_HIDDEN).mul_(0.05).requires_grad_(),
        torch.randn(arguments.tokens, TEACHER_HIDDEN),
        torch.randn(arguments.vocab, TEACHER_HIDDEN).mul_(0.05),
    )
    setting = (
        f"{arguments.tokens:,} tokens, heads of {arguments.vocab:,} x {STUDENT_HIDDEN:,} and "
        f"{TEACHER_HIDDEN:,}, beta {arguments.beta:g}, chunks of {CHUNK_TOKENS} tokens, fp32, loss "
        f"and gradients, 1 thread, medians of {arguments.turns} turns; peaks above the inputs"
    )
    rows = measure(states, arguments.beta, arguments.turns)
    record("heads", setting, rows, is_whole=is_whole)


def measure(states: States, beta: float, turns: int) -> list[Measured]:
    check_same(states, beta)
    contenders = {
        WHOLE: partial(trl_whole, states, beta),
        CHUNKED: partial(trl_chunked, states, beta),
        PRODUCTS: partial(products, states),
    }
    for backend in backends():
        contenders[backend] = partial(ours, states, beta, backend)
    costs = take_turns(contenders, states.tensors, turns)
    return [row for backend in backends() for row in _rows(backend, costs)]


def _rows(backend: str, costs: dict[str, Costs]) -> list[Measured]:
    own, what = costs[backend], f"jsd_linear, {backend}"
    targets = {PRODUCTS: ratio_at_most(1.2)}
    times = [
        Measured(
            f"{what}: time",
            "s",
            own.median_s,
            other,
            costs[other].median_s,
            own.time_ratio(costs[other]),
            targets.get(other),
        )
        for other in (WHOLE, CHUNKED, PRODUCTS)
    ]
    targets = {WHOLE: ratio_at_most(0.12)}
    peaks = [
        Measured(
            f"{what}: peak",
            "GiB",
            own.peak_bytes / 2**30,
            other,
            costs[other].peak_bytes / 2**30,
            own.peak_bytes / costs[other].peak_bytes,
            targets.get(other),
        )
        for other in (WHOLE, CHUNKED)
    ]
    return times + peaks


def check_same(states: States, beta: float) -> None:
    """Raises AssertionError unless all agree on some of the tokens, loss and gradients."""
    states = states.first(CHECKED_TOKENS)
    expected = trl_whole(states, beta)
    others = [trl_chunked(states, beta), *(ours(states, beta, backend) for backend in backends())]
    for other in others:
        torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-6)


def ours(states: States, beta: float, backend: str) -> tuple[Tensor, ...]:
    weights = torch.full((len(states.hidden),), 1 / len(states.hidden))
    options = {"beta": beta, "chunk_tokens": CHUNK_TOKENS, "backend": backend}
    return states.gradients(jsd_linear(*states.tensors, weights, **options))


def trl_whole(states: States, beta: float) -> tuple[Tensor, ...]:
    logits_NV = states.hidden @ states.head.t()
    with torch.no_grad():
        teacher_NV = states.teacher_hidden @ states.teacher_head.t()
    labels = torch.zeros(1, len(logits_NV), dtype=torch.int64)
    loss = GKDTrainer.generalized_jsd_loss(logits_NV[None], teacher_NV[None], labels, beta=beta)
    return states.gradients(loss)


def trl_chunked(states: States, beta: float) -> tuple[Tensor, ...]:
    mask = torch.ones(1, len(states.hidden), dtype=torch.int64)
    hidden, teacher_hidden = states.hidden[None], states.teacher_hidden[None]
    heads = states.head, states.teacher_head
    return states.gradients(_chunked_divergence_loss(hidden, teacher_hidden, *heads, mask, beta)[0])


@torch.no_grad()
def products(states: States) -> None:
    """The products that `jsd_linear` takes, chunk by chunk, with nothing between them."""
    logits_CV, teacher_CV = torch.empty(2, CHUNK_TOKENS, len(states.head))
    head_gradient_VH = torch.zeros_like(states.head)
    for rows in torch.arange(len(states.hidden)).split(CHUNK_TOKENS):
        size = len(rows)
        torch.mm(states.hidden[rows], states.head.t(), out=logits_CV[:size])
        torch.mm(states.teacher_hidden[rows], states.teacher_head.t(), out=teacher_CV[:size])
        torch.mm(logits_CV[:size], states.head)
        head_gradient_VH.addmm_(logits_CV[:size].t(), states.hidden[rows])


if __name__ == "__main__":
    main()
