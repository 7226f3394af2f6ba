"""Contenders that take turns in one process, on one CPU thread."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.loss.compiled import check_compiler

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds of each turn, and peak live tensor bytes above the inputs."""

    seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def time_ratio(self, other: "Costs") -> float:
        """The median over turns of this one's seconds over the other's in the same turn."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


@cache
def backends() -> tuple[str, ...]:
    """The loss's backends that this CPU runs; says where one is left out."""
    try:
        check_compiler(torch.device("cpu"))
    except ValueError as reason:
        print(f"the compiled backend is left out: {reason}", flush=True)
        return ("eager",)
    return "eager", "compiled"


def take_turns(
    contenders: Mapping[str, Work], inputs: Sequence[Tensor], turns: int
) -> dict[str, Costs]:
    """Each contender once with its tensors counted, then all of them one after the other, `turns`
    times; CPU time, so that neighbours on the machine matter less."""
    peaks = {name: peak_above(inputs, work) for name, work in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, work in contenders.items():
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    for name, of_name in seconds.items():
        print(f"  {name}: {statistics.median(of_name):.2f} s", flush=True)
    return {name: Costs(tuple(seconds[name]), peaks[name]) for name in contenders}


def peak_above(inputs: Sequence[Tensor], work: Work) -> int:
    """Peak live tensor bytes of one call, above the inputs."""
    live = LiveBytes(torch.device("cpu"))
    live.adopt(inputs)
    with live:
        live.mark_phase()
        before = live.current_bytes
        work()
        return live.peak_bytes - before
