"""The student's gradients and weights off the device while nothing reads them: the same numbers,
and the ledger's bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

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
from gkdplan.runtime.residency import Residency
from gkdplan.runtime.run_directory import read_metrics
from gkdplan.vocab import Phase, Tier

NUM_STEPS = 4
FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": NUM_STEPS, "rows": 8}
SOURCES = {"lmbda": 0.5, "seq_kd": 0.5, "held_out": "[]", "save_interval": 2}
TWO = {"devices": 2}
STATE = {"optimizer": 'offload = "cpu"'}
EMA = {"teacher_model": 'self = "ema"\ndecay = 0.5', "distill": "sft_alpha = 1.0"}
EMA |= {"lmbda": 0.0, "seq_kd": 0.0}
CONFIGURATIONS = {
    "fp32": {},
    "bf16 over data": TWO | {"dtype": "bf16"},
    "fp32 over data, all else on the host": TWO | STATE | {"offload": "cpu"},
    "bf16, replicated": TWO | {"dtype": "bf16", "distributed": "false"},
    "tensor": TWO | {"tensor": 2},
    "bf16 in stages, state fetched early": TWO
    | {"dtype": "bf16", "parallel": "pipeline = 2"}
    | {"optimizer": 'offload = "cpu"\nprefetch = true'},
    "adapters": {"student": 'tuning = "lora"', "dtype": "bf16"},
    "the average of the student": EMA | {"dtype": "bf16"},
}
IN_EVERY_RUN = {"bf16 over data", "fp32 over data, all else on the host"}
CASES = [
    pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.grid)
    for name in CONFIGURATIONS
]
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Models large enough that their tensors, not Python's odds and ends, are what is counted."""
    home = tmp_path_factory.mktemp("rests")
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=128, seed=1)
    tiny.save_llama(home / "student", num_layers=4, hidden=128, ffn=384, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    return home


@pytest.fixture(scope="module")
def ran(home, tmp_path_factory) -> Callable[..., tuple[RunPlan, Path]]:
    def ran(name: str, offload: str, starts: tuple[int, ...] = (0,)) -> tuple[RunPlan, Path]:
        output = tmp_path_factory.mktemp("runs") / "run"
        changes = FILLED | SOURCES | CONFIGURATIONS[name]
        changes["student"] = f'offload = "{offload}"\n{changes.get("student", "")}'
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
    return lambda name: known.setdefault(name, ran(name, "none"))


@pytest.mark.parametrize("offload", ["grads", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_a_student_that_rests_changes_no_bit_and_the_bytes_that_the_plan_says(
    name, offload, ran, on_device
):
    (_, there), (moved, found) = on_device(name), ran(name, offload)
    moves = {(m.object, m.phase, m.to_tier) for m in moved.schedule.moves if "student" in m.object}
    wanted = {
        ("student grads", Phase.STUDENT, Tier.DEVICE),
        ("student grads", Phase.CHECKPOINT, Tier.DROPPED),
    }
    if offload == "cpu":
        wanted |= {
            ("student params", Phase.TEACHER, Tier.HOST),
            ("student params", Phase.STUDENT, Tier.DEVICE),
        }
    assert wanted <= moves
    assert _losses(found) == _losses(there)
    _assert_same_state(found, there)
    planned, kept = moved.ledger.phase_peaks, on_device(name)[0].ledger.phase_peaks
    assert planned[Phase.TEACHER] < kept[Phase.TEACHER]
    measured, without = (_steps(output)[1]["peak_bytes"] for output in (found, there))
    for phase in (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER):
        saved = without[phase] - measured[phase]
        assert saved == pytest.approx(kept[phase] - planned[phase], abs=0.005 * without[phase])
        if name in IN_EVERY_RUN:
            assert measured[phase] == pytest.approx(planned[phase], rel=TOLERANCE)


def test_a_resumed_run_is_the_one_that_never_stopped(ran):
    _, whole = ran("bf16 over data", "cpu")
    _, stopped = ran("bf16 over data", "cpu", starts=(0, 2))
    _assert_same_state(stopped, whole)


def _run(lock: str, start_step: int) -> None:
    """What moves is what is scheduled, and reads of what is away find nothing."""
    session = open_silently(lock, start_step)
    moved: list[Move] = []
    apply = Residency.apply

    def seen(residency: Residency, move: Move) -> None:
        moved.append(move)
        apply(residency, move)
        if move.object == "student grads":
            _assert_there(session.trainer.gradients(), move.to_tier is Tier.DEVICE)
        if move.object == "student params":
            parameters = [p for chunk in session.student for p in chunk.parameters()]
            _assert_there(parameters, move.to_tier is Tier.DEVICE)

    with settled(), patch.object(Residency, "apply", seen):
        Executor(session).run(start_step)
    assert moved == [*session.plan.schedule.moves] * (NUM_STEPS - start_step)


def _assert_there(tensors: list[torch.Tensor], is_there: bool) -> None:
    assert tensors
    assert all((t.untyped_storage().nbytes() > 0) is is_there for t in tensors)


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
