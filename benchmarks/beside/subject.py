"""A trainer that takes the steps of a workload, in a process of its own: what it says of them."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1]
BEGIN = "steps: "


@dataclass(slots=True)
class Step:
    """Wall and CPU seconds, tokens of all rows without padding, the loss, and the largest resident
    set of the process so far."""

    source: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    num_tokens: int = 0
    loss: float = 0.0
    peak_rss_bytes: int = 0

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds


@dataclass(slots=True)
class Clock:
    """The steps so far, each timed from `start` to `stop`."""

    steps: list[Step] = field(default_factory=list)
    _started: tuple[float, float] = (0.0, 0.0)

    def start(self, source: str) -> None:
        self.steps.append(Step(source))
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        step, (wall, cpu) = self.steps[-1], self._started
        step.seconds, step.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        step.peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @contextmanager
    def step(self, source: str) -> Iterator[Step]:
        self.start(source)
        yield self.steps[-1]
        self.stop()

    def tell(self) -> None:
        """To the process that waits in `run`."""
        print(BEGIN + json.dumps([asdict(step) for step in self.steps]), flush=True)


def run(module: str, arguments: list[str], threads: int) -> list[Step]:
    """Run a module of this package on so many threads; the steps that it tells of."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TRL_EXPERIMENTAL_SILENCE": "1"}
    command = [sys.executable, "-W", "ignore", "-m", f"beside.{module}", *arguments]
    done = subprocess.run(
        command, cwd=BENCHMARKS, env=environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(BEGIN)]
    if done.returncode or not lines:
        raise RuntimeError(f"{module} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return [Step(**step) for step in json.loads(lines[-1].removeprefix(BEGIN))]
