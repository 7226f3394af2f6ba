"""The loss curve of 20 off-policy fp32 steps beside TRL's GKDTrainer, on the same rows in the same
order.

    python benchmarks/curve.py [--steps 20]

Both run at one time, on a thread each, as nothing is timed. Ends with 1 where a loss differs by
more than 1e-4.
"""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from beside import workload
from beside.record import Measured, at_most, record
from beside.subject import run

LARGEST_DIFFERENCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as directory:
        rows = workload.short_rows(arguments.steps * workload.BATCH)
        workload.write(Path(directory), rows, [workload.OFF] * arguments.steps)
        with ThreadPoolExecutor() as pool:
            subjects = ("gkdplan_steps", [directory]), ("trl_steps", [directory, "gkd"])
            waiting = [pool.submit(run, *subject, threads=1) for subject in subjects]
            ours, theirs = (future.result() for future in waiting)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
        assert a.num_tokens == b.num_tokens, "not the same rows"
        print(f"step {number:2}  {a.num_tokens} tokens  {a.loss:.6f}  {b.loss:.6f}")
    difference = max(abs(a.loss - b.loss) for a, b in zip(ours, theirs, strict=True))
    row = Measured(
        f"loss of {arguments.steps} off-policy steps: largest difference",
        "nats a token",
        difference,
        "TRL GKDTrainer",
        target=at_most(LARGEST_DIFFERENCE),
    )
    setting = (
        f"SmolLM2-135M-Instruct into 12 of its layers, fp32, {workload.BATCH} of the quickstart's "
        f"shortest rows a step, beta {workload.BETA}, temperature 1, AdamW at {workload.LR:g}, "
        f"1 thread; losses from {ours[0].loss:.4f} to {ours[-1].loss:.4f}"
    )
    record("curve", setting, [row], is_whole=arguments == parser.parse_args([]))
    return int(difference > LARGEST_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
