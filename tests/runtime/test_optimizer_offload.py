"""The optimizer's state on the host between updates: the same numbers, and the ledger's bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from safetensors.torch import load_file
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Move
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.run_directory import read_metrics
from gkdplan.vocab import Phase, Tier

NUM_STEPS = 4
FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": NUM_STEPS, "rows": 8}
SOURCES = {"lmbda": 0.5, "seq_kd": 0.5, "held_out": "[]", "save_interval": 2}
ON_HOST = 'offload = "cpu"\nprefetch = {prefetch}'
STATE = "student main + Adam"
CONFIGURATIONS = {
    "fp32": {},
    "bf16 over data": {"dtype": "bf16", "devices": 2},
    "bf16, replicated": {"dtype": "bf16", "devices": 2, "distributed": "false"},
    "fp32 over tensor, the teacher on the host too": {"devices": 2, "tensor": 2, "offload": "cpu"},
    "bf16 in stages": {"dtype": "bf16", "devices": 2, "parallel": "pipeline = 2"},
    "adapters": {"student": 'tuning = "lora"', "dtype": "bf16"},
}
IN_EVERY_RUN = {"fp32", "bf16 over data"}
CASES = [
    pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.grid)
    for name in CONFIGURATIONS
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Models large enough that their tensors, not Python's odds and ends, are what is counted."""
    home = tmp_path_factory.mktemp("offload")
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=128, seed=1)
    tiny.save_llama(home / "student", num_layers=4, hidden=96, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    return home


@pytest.fixture(scope="module")
def ran(home, tmp_path_factory) -> Callable[..., tuple[RunPlan, Path]]:
    def ran(name: str, optimizer: str, starts: tuple[int, ...] = (0,)) -> tuple[RunPlan, Path]:
        output = tmp_path_factory.mktemp("runs") / "run"
        changes = FILLED | SOURCES | CONFIGURATIONS[name] | {"optimizer": optimizer}
        run_plan = compile_tiny(home, output, **changes)
        for start in starts:
            run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan), start)
            if start != starts[-1]:
                shutil.rmtree(output / "checkpoints" / f"step_{NUM_STEPS}")
        return run_plan, output

    return ran


@pytest.fixture(scope="module")
def on_device(ran) -> Callable[[str], tuple[RunPlan, Path]]:
    known: dict[str, tuple[RunPlan, Path]] = {}
    return lambda name: known.setdefault(name, ran(name, ""))


@pytest.mark.parametrize("prefetch", ["false", "true"])
@pytest.mark.parametrize("name", CASES)
def test_a_state_on_the_host_changes_no_bit_and_the_bytes_that_the_plan_says(
    name, prefetch, ran, on_device
):
    (kept, there), (moved, found) = on_device(name), ran(name, ON_HOST.format(prefetch=prefetch))
    moves = [step for step in moved.steps if isinstance(step, Move) and step.object == STATE]
    assert [move.to_tier for move in moves] == [Tier.DEVICE, Tier.HOST]
    assert any(move.due for move in moves) is (prefetch == "true")
    assert _losses(found) == _losses(there)
    _assert_same_state(found, there)
    second, without = (_steps(output)[1]["peak_bytes"] for output in (found, there))
    ledgers = (plan.ledger.classes[0].phases for plan in (moved, kept))
    planned, planned_without = ledgers
    for phase, num_bytes in second.items():
        saved = without[phase] - num_bytes
        planned_saved = planned_without[Phase(phase)].peak_bytes - planned[Phase(phase)].peak_bytes
        assert saved == pytest.approx(planned_saved, abs=0.005 * without[phase]), phase


@pytest.mark.parametrize("prefetch", ["false", "true"])
def test_a_resumed_run_is_the_one_that_never_stopped(prefetch, ran):
    optimizer = ON_HOST.format(prefetch=prefetch)
    _, whole = ran("bf16 over data", optimizer)
    _, stopped = ran("bf16 over data", optimizer, starts=(0, 2))
    _assert_same_state(stopped, whole)


def _run(lock: str, start_step: int) -> None:
    session = open_silently(lock, start_step)
    with settled():
        Executor(session).run(start_step)


def _steps(output: Path) -> list[dict]:
    return [line for line in read_metrics(output / "metrics.jsonl") if "loss" in line]


def _losses(output: Path) -> list[float]:
    return [line["loss"] for line in _steps(output)]


def _assert_same_state(mine: Path, other: Path) -> None:
    """Student and training state, to the bit."""
    files = sorted((other / "checkpoints" / f"step_{NUM_STEPS}").rglob("*.safetensors"))
    assert files
    for file in files:
        found, expected = load_file(mine / file.relative_to(other)), load_file(file)
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items()), file
