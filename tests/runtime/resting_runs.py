"""Short real runs, kept for as long as a module's tests, whose losses and files are compared."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from safetensors.torch import load_file
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.vocab import Phase

NUM_STEPS = 4
FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": NUM_STEPS, "rows": 8}
FILLED |= {"lmbda": 0.5, "seq_kd": 0.5, "held_out": "[]", "save_interval": 2}
TOLERANCE = 0.02


@dataclass(frozen=True)
class Ran:
    """A run that has ended."""

    plan: RunPlan
    output: Path

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self._steps]

    @property
    def peak_bytes(self) -> dict[Phase, int]:
        """Of the second step, where everything that stays is there."""
        return self._steps[1]["peak_bytes"]

    @property
    def errors(self) -> dict[Phase, float]:
        """Measured beside planned, of each phase that the second step had."""
        planned = self.plan.ledger.phase_peaks
        return {p: num_bytes / planned[p] - 1 for p, num_bytes in self.peak_bytes.items()}

    @property
    def _steps(self) -> list[dict]:
        return [line for line in read_metrics(self.output / "metrics.jsonl") if "loss" in line]


def save_models(home: Path) -> Path:
    """Models large enough that their tensors, not Python's odds and ends, are what is counted, and
    a teacher whose MLP is narrow, so that its norms are the peak of its forward."""
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=128, seed=1)
    tiny.save_llama(home / "student", num_layers=4, hidden=128, ffn=384, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    return home


class Runs:
    """Makes runs of `function(lock, start_step)` on the ranks of their plans."""

    def __init__(self, function: Callable[..., None], directories: pytest.TempPathFactory) -> None:
        self._function = function
        self._directories = directories
        self._home = save_models(directories.mktemp("models"))
        self._known: dict[tuple[object, ...], Ran] = {}

    def of(self, starts: tuple[int, ...] = (0,), **changes: object) -> Ran:
        """The run of a tiny plan with `changes`; where there are several `starts`, stopped before
        each but the first, at which it resumes. The same run is made once."""
        key = (starts, *sorted(changes.items()))
        if key not in self._known:
            self._known[key] = self._run(starts, changes)
        return self._known[key]

    def _run(self, starts: tuple[int, ...], changes: dict[str, object]) -> Ran:
        output = self._directories.mktemp("runs") / "run"
        plan = compile_tiny(self._home, output, **FILLED | changes)
        for start in starts:
            run_on_ranks(self._function, plan.layout.world_size, encode(plan), start)
            if start != starts[-1]:
                shutil.rmtree(output / "checkpoints" / f"step_{NUM_STEPS}")
        return Ran(plan, output)


def assert_same_state(mine: Ran, other: Ran) -> None:
    """Student and training state, to the bit."""
    files = sorted((other.output / "checkpoints" / f"step_{NUM_STEPS}").rglob("*.safetensors"))
    assert files
    for file in files:
        found = load_file(mine.output / file.relative_to(other.output))
        expected = load_file(file)
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items()), file
