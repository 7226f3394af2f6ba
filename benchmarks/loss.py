"""The loss beside the plain eager formula and beside its own matrix products, on one CPU thread.

    python benchmarks/loss.py [--tokens 1024] [--vocab 151936] [--head-vocab 32000]

The two sides of a ratio take turns in this process; a ratio is the median over turns. Time is this
process's CPU time, so that neighbours on the machine matter less. Peaks are live tensor bytes above
the inputs, in float32 [tokens, vocabulary] buffers.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.loss import jsd_linear, jsd_logits

BETAS = (0.0, 0.5, 1.0)
TURNS = 3
STUDENT_HIDDEN, TEACHER_HIDDEN = 1024, 2048
CHUNK_TOKENS = 256


def eager_formula(student_NV: Tensor, teacher_NV: Tensor, weights_N: Tensor, beta: float) -> Tensor:
    """The divergence as libraries write it, with autograd's gradient."""
    log_q, log_p = log_softmax(student_NV, dim=-1), log_softmax(teacher_NV, dim=-1)
    if beta == 0.0:
        losses_NV = kl_div(log_q, log_p, reduction="none", log_target=True)
    elif beta == 1.0:
        losses_NV = kl_div(log_p, log_q, reduction="none", log_target=True)
    else:
        log_parts = torch.stack([log_q + math.log1p(-beta), log_p + math.log(beta)])
        log_m = torch.logsumexp(log_parts, dim=0)
        teacher_NV = kl_div(log_m, log_p, reduction="none", log_target=True)
        student_NV = kl_div(log_m, log_q, reduction="none", log_target=True)
        losses_NV = beta * teacher_NV + (1 - beta) * student_NV
    return (losses_NV.sum(dim=-1) * weights_N).sum()


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak_bytes: int


def cost_of(work: Callable[[], object], inputs: list[Tensor]) -> Cost:
    """CPU seconds of one unmetered call; peak above the inputs of one metered call."""
    live = LiveBytes(torch.device("cpu"))
    live.adopt(inputs)
    with live:
        live.mark_phase()
        before = live.current_bytes
        work()
        peak_bytes = live.peak_bytes - before
    started = time.process_time()
    work()
    return Cost(time.process_time() - started, peak_bytes)


def compare(
    name: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    inputs: list[Tensor],
    unit: int,
) -> None:
    """Print one row: median seconds of both, the median of their ratios, and both peaks."""
    turns = [(cost_of(other, inputs), cost_of(ours, inputs)) for _ in range(TURNS)]
    ratio = statistics.median(b.seconds / a.seconds for a, b in turns)
    others, own = (statistics.median(turn[i].seconds for turn in turns) for i in (0, 1))
    others_peak, own_peak = (turns[0][i].peak_bytes / unit for i in (0, 1))
    print(
        f"{name:34}{others:9.2f} s{own:9.2f} s{ratio:8.2f}x"
        f"{others_peak:10.2f}{own_peak:8.2f}{own_peak / max(others_peak, 1e-9):9.2f}x",
        flush=True,
    )


def stored_logits(num_tokens: int, vocab: int) -> None:
    student = torch.randn(num_tokens, vocab).mul_(2.0).requires_grad_()
    teacher = torch.randn(num_tokens, vocab).mul_(2.0)
    weights = torch.full((num_tokens,), 1 / num_tokens)

    def gradient(loss: Tensor) -> None:
        torch.autograd.grad(loss, student)

    for beta in BETAS:
        compare(
            f"jsd_logits / eager, beta {beta}",
            lambda beta=beta: gradient(jsd_logits(student, teacher, weights, beta=beta)),
            lambda beta=beta: gradient(eager_formula(student, teacher, weights, beta)),
            [student, teacher, weights],
            num_tokens * vocab * 4,
        )


def output_heads(num_tokens: int, vocab: int) -> None:
    hidden = torch.randn(num_tokens, STUDENT_HIDDEN).requires_grad_()
    head = torch.randn(vocab, STUDENT_HIDDEN).mul_(0.05).requires_grad_()
    teacher_hidden = torch.randn(num_tokens, TEACHER_HIDDEN)
    teacher_head = torch.randn(vocab, TEACHER_HIDDEN).mul_(0.05)
    weights = torch.full((num_tokens,), 1 / num_tokens)
    tensors = (hidden, head, teacher_hidden, teacher_head)

    def gradients(loss: Tensor) -> None:
        torch.autograd.grad(loss, (hidden, head))

    def chunked(beta: float) -> None:
        gradients(jsd_linear(*tensors, weights, beta=beta, chunk_tokens=CHUNK_TOKENS))

    def whole(beta: float) -> None:
        logits_NV, teacher_NV = hidden @ head.t(), teacher_hidden @ teacher_head.t()
        gradients(eager_formula(logits_NV, teacher_NV, weights, beta))

    @torch.no_grad()
    def products() -> None:
        logits_CV, teacher_CV = torch.empty(2, CHUNK_TOKENS, vocab)
        head_gradient_VH = torch.zeros_like(head)
        for rows in torch.arange(num_tokens).split(CHUNK_TOKENS):
            size = len(rows)
            torch.mm(hidden[rows], head.t(), out=logits_CV[:size])
            torch.mm(teacher_hidden[rows], teacher_head.t(), out=teacher_CV[:size])
            torch.mm(logits_CV[:size], head)
            head_gradient_VH.addmm_(logits_CV[:size].t(), hidden[rows])

    unit = num_tokens * vocab * 4
    for beta in BETAS:
        compare(
            f"jsd_linear / whole logits, beta {beta}",
            lambda beta=beta: chunked(beta),
            lambda beta=beta: whole(beta),
            [*tensors, weights],
            unit,
        )
    for beta in BETAS:
        compare(
            f"jsd_linear / its products, beta {beta}",
            lambda beta=beta: chunked(beta),
            products,
            [*tensors, weights],
            unit,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=151936, help="of the stored logits")
    parser.add_argument("--head-vocab", type=int, default=32000, help="of the output heads")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"{arguments.tokens} tokens, vocabulary {arguments.vocab} (logits) and "
        f"{arguments.head_vocab} (heads of {STUDENT_HIDDEN} and {TEACHER_HIDDEN}, "
        f"chunks of {CHUNK_TOKENS}), fp32, 1 thread, torch {torch.__version__}"
    )
    print(f"{'':34}{'other':>11}{'ours':>11}{'time':>9}{'peak':>10}{'ours':>8}{'peak':>10}")
    stored_logits(arguments.tokens, arguments.vocab)
    output_heads(arguments.tokens, arguments.head_vocab)


if __name__ == "__main__":
    main()
