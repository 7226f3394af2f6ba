"""The loss of stored logits beside TRL's, on one CPU thread.

    python benchmarks/loss.py [--tokens 1024] [--vocab 151936] [--turns 3]

TRL's is `GKDTrainer.generalized_jsd_loss`; its distillation trainer has no loss of logits. Both get
the same logits and give the loss and the student's gradient; they are compared before they are
timed.
"""

import argparse
from functools import partial

import torch
from beside.record import Measured, at_most, ratio_at_most, record
from beside.turns import backends, peak_above, take_turns
from torch import Tensor
from trl.experimental.gkd import GKDTrainer

from gkdplan.runtime.loss import jsd_logits

TIME_RATIOS = {0.0: 0.35, 0.5: 0.30, 1.0: 0.35}
TRL = "TRL generalized_jsd_loss"
CHECKED_TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    is_whole = arguments == parser.parse_args([])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    student = torch.randn(arguments.tokens, arguments.vocab).mul_(2.0).requires_grad_()
    teacher = torch.randn(arguments.tokens, arguments.vocab).mul_(2.0)
    rows = [row for beta in TIME_RATIOS for row in measure(student, teacher, beta, arguments.turns)]
    rows.append(measure_in_place(student, teacher))
    setting = (
        f"{arguments.tokens:,} tokens, vocabulary {arguments.vocab:,}, fp32, loss and gradient, "
        f"1 thread, medians of {arguments.turns} turns; peaks above the inputs, in buffers of "
        "[tokens, vocabulary]"
    )
    record("loss", setting, rows, is_whole=is_whole)


def measure(student: Tensor, teacher: Tensor, beta: float, turns: int) -> list[Measured]:
    print(f"beta {beta}", flush=True)
    check_same(student, teacher, beta)
    contenders = {TRL: partial(trl_loss, student, teacher, beta)}
    for backend in backends():
        contenders[backend] = partial(our_loss, student, teacher, beta, backend)
    costs = take_turns(contenders, [student, teacher], turns)
    theirs, buffer_bytes = costs[TRL], student.nbytes
    rows = []
    for backend in backends():
        ours, what = costs[backend], f"jsd_logits, {backend}, beta {beta}"
        time_ratio = 0.15 if backend == "compiled" else TIME_RATIOS[beta]
        rows += [
            Measured(
                f"{what}: time",
                "s",
                ours.median_s,
                TRL,
                theirs.median_s,
                ours.time_ratio(theirs),
                ratio_at_most(time_ratio),
            ),
            Measured(
                f"{what}: peak",
                "buffers",
                ours.peak_bytes / buffer_bytes,
                TRL,
                theirs.peak_bytes / buffer_bytes,
                ours.peak_bytes / theirs.peak_bytes,
                at_most(1.2),
            ),
        ]
    return rows


def measure_in_place(student: Tensor, teacher: Tensor) -> Measured:
    """The last measurement: the student's logits are its gradient afterwards."""
    weights = torch.full((len(student),), 1 / len(student))
    work = partial(jsd_logits, student, teacher, weights, beta=0.5, inplace=True)
    peak = peak_above([student, teacher, weights], work) / student.nbytes
    return Measured("jsd_logits in place, beta 0.5: peak", "buffers", peak, target=at_most(0.1))


def check_same(student: Tensor, teacher: Tensor, beta: float) -> None:
    """Raises AssertionError unless all agree on some of the tokens, loss and gradient."""
    student, teacher = student.detach()[:CHECKED_TOKENS].requires_grad_(), teacher[:CHECKED_TOKENS]
    expected = trl_loss(student, teacher, beta)
    for backend in backends():
        torch.testing.assert_close(
            our_loss(student, teacher, beta, backend), expected, rtol=1e-4, atol=1e-8
        )


def trl_loss(student: Tensor, teacher: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    labels = torch.zeros(1, len(student), dtype=torch.int64)
    loss = GKDTrainer.generalized_jsd_loss(student[None], teacher[None], labels, beta=beta)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


def our_loss(student: Tensor, teacher: Tensor, beta: float, backend: str) -> tuple[Tensor, Tensor]:
    weights = torch.full((len(student),), 1 / len(student))
    loss = jsd_logits(student, teacher, weights, beta=beta, backend=backend)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


if __name__ == "__main__":
    main()
