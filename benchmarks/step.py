"""A whole training step beside TRL's trainers, each in a process of its own, in turns.

    python benchmarks/step.py [--turns 2] [--threads 2]

Each process takes two short steps, then one from the dataset's responses, then one from 64 new
tokens of the student's own; the last two are timed. All have the same models,
tokens, hyperparameters and threads. With vLLM gkdplan samples in the short steps too, and leaves
out the dataset's.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from beside import workload
from beside.record import Measured, Target, at_most, ratio_at_least, ratio_at_most, record
from beside.subject import Step, run
from beside.workload import OFF, ON, Lengths

OURS, WITH_VLLM = "gkdplan", "gkdplan with vllm"
GKD, DISTILLATION = "TRL GKDTrainer", "TRL DistillationTrainer"
PRODUCTS = "its matrix products alone"
SCRIPTS = {
    GKD: ("trl_steps", "gkd"),
    OURS: ("gkdplan_steps",),
    WITH_VLLM: ("gkdplan_steps",),
    DISTILLATION: ("trl_steps", "distillation"),
    PRODUCTS: ("products_steps",),
}
EVERY_TURN = (GKD, OURS, WITH_VLLM)
"""The others run in the first turn only."""
WANTED = {
    (OURS, OFF): ratio_at_least(2.0),
    (OURS, ON): ratio_at_least(1.4),
    (WITH_VLLM, ON): ratio_at_least(1.8),
}
"""Of the speed beside TRL's GKDTrainer."""
LONG_ROWS = [Lengths(prompt=415 + 10 * i, response=265 - 10 * i) for i in range(workload.BATCH)]
NUM_SHORT_STEPS = 2
"""The first two of a run of gkdplan count live bytes, which slows them."""

Run = dict[str, Step]
"""A subject's timed steps by their source."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    runs: dict[str, list[Run]] = {name: [] for name in SCRIPTS}
    for turn in range(arguments.turns):
        for name in SCRIPTS:
            if turn and name not in EVERY_TURN:
                continue
            runs[name].append(take_steps(name, arguments.threads))
            print(f"turn {turn + 1}  {name:26}{described(runs[name][-1])}", flush=True)
    setting = (
        f"SmolLM2-135M-Instruct into 12 of its layers, fp32, {workload.BATCH} rows of about 700 "
        f"tokens, of which 250 are the response, or about 450 and {workload.NEW_TOKENS} new ones, "
        f"beta {workload.BETA}, {arguments.threads} threads, one process a trainer, medians of "
        f"{arguments.turns} turns (of DistillationTrainer and the products one)"
    )
    speeds = [*speed(runs, OURS, OFF), *speed(runs, OURS, ON), *speed(runs, WITH_VLLM, ON)]
    rows = [*speeds, *rows_of_off_policy(runs)]
    record("step", setting, rows, is_whole=arguments == parser.parse_args([]))


def take_steps(name: str, threads: int) -> Run:
    engine, timed = ("vllm", [ON]) if name == WITH_VLLM else ("megatron", [OFF, ON])
    sources = timed[:1] * NUM_SHORT_STEPS + timed
    script, *arguments = SCRIPTS[name]
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as directory:
        rows = workload.short_rows(NUM_SHORT_STEPS * workload.BATCH)
        rows += workload.long_rows([*LONG_ROWS, *LONG_ROWS])
        workload.write(Path(directory), rows, sources, engine)
        steps = run(script, [directory, *arguments], threads)
    return {step.source: step for step in steps[NUM_SHORT_STEPS:]}


def described(of_name: Run) -> str:
    return ", ".join(
        f"{source}: {step.num_tokens:,} tokens in {step.seconds:.1f} s "
        f"({step.cpu_seconds:.1f} of processor), peak {step.peak_rss_bytes / 2**30:.2f} GiB"
        for source, step in of_name.items()
    )


def speed(runs: dict[str, list[Run]], name: str, source: str) -> list[Measured]:
    """A subject's speed beside each of TRL's trainers, by wall time and by processor time."""
    what = "off-policy" if source == OFF else f"on-policy, {workload.NEW_TOKENS} new tokens"
    what += ", vllm" if name == WITH_VLLM else ""
    rows = []
    for other in (GKD, DISTILLATION):
        wanted = WANTED[name, source] if other == GKD else None
        wall = compared(runs, source, other, lambda step: step.tokens_per_s, name)
        rows.append(_row(f"{what}: tokens a second", "tokens/s", other, wall, wanted))
        of_cpu = compared(
            runs, source, other, lambda step: step.num_tokens / step.cpu_seconds, name
        )
        rows.append(_row(f"{what}: tokens a processor second", "tokens/s", other, of_cpu))
    return rows


def rows_of_off_policy(runs: dict[str, list[Run]]) -> list[Measured]:
    rows = []
    for other, target in ((GKD, ratio_at_most(0.6)), (DISTILLATION, None)):
        peaks = compared(runs, OFF, other, lambda step: step.peak_rss_bytes / 2**30)
        rows.append(_row("off-policy: peak resident set", "GiB", other, peaks, target))
    seconds = compared(runs, OFF, PRODUCTS, lambda step: step.seconds)
    rows.append(_row("off-policy: a step", "s", PRODUCTS, seconds))
    for other in (GKD, DISTILLATION):
        losses = compared(runs, OFF, other, lambda step: step.loss)
        gap = abs(losses[0] - losses[1])
        what = "off-policy: difference of the third step's loss"
        rows.append(Measured(what, "nats a token", gap, other, target=at_most(1e-4)))
    return rows


def compared(
    runs: dict[str, list[Run]],
    source: str,
    other: str,
    number: Callable[[Step], float],
    name: str = OURS,
) -> tuple[float, float, float]:
    """Medians of gkdplan's and the other's number, and of their ratio, over the other's turns."""
    ours, theirs = ([number(of_turn[source]) for of_turn in runs[who]] for who in (name, other))
    pairs = list(zip(ours, theirs, strict=False))
    numbers = (*zip(*pairs, strict=True), [a / b for a, b in pairs])
    of_ours, of_theirs, ratio = (statistics.median(column) for column in numbers)
    return of_ours, of_theirs, ratio


def _row(
    what: str,
    unit: str,
    other: str,
    numbers: tuple[float, float, float],
    target: Target | None = None,
) -> Measured:
    ours, theirs, ratio = numbers
    return Measured(what, unit, ours, other, theirs, ratio, target)


if __name__ == "__main__":
    main()
