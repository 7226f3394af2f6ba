"""Whole runs on a GPU: the curve of a CPU, the saved student, a checkpoint to go on from."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from saved_student import greedy_completion
from tiny_plans import compile_tiny, make_home, plan_text

from gkdplan.cli import main
from gkdplan.runtime.launch import run
from gkdplan.runtime.saved.run_directory import read_metrics

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(180)]

MIX = {"lmbda": 0.4, "seq_kd": 0.5}
ON_GPU = {"cluster": 'device = "h100-80gb"\nkernels = "torch"', "offload": "cpu"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runs(home, tmp_path_factory):
    """One finished run a device, learning from all three sources."""
    root = tmp_path_factory.mktemp("runs")
    places = {"cpu": {}, "gpu": ON_GPU}
    plans = {name: compile_tiny(home, root / name, **MIX, **at) for name, at in places.items()}
    return {name: (plan, run(plan)) for name, plan in plans.items()}


def test_a_gpu_logs_the_curve_of_a_cpu(runs):
    """Rows are sampled by the same numbers, so that both learn from the same responses."""
    curves = {name: _steps(result.run_dir) for name, (_, result) in runs.items()}
    gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(*curves.values(), strict=True)]
    print(f"\nlosses of a GPU beside a CPU's: {max(gaps):.1e} apart at most")
    for mine, other in zip(*curves.values(), strict=True):
        assert (mine["source"], mine["num_tokens"]) == (other["source"], other["num_tokens"])
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
    assert {line["source"] for line in curves["gpu"]} == {"student", "teacher", "dataset"}


def test_the_saved_student_continues_greedily_as_the_runtime_does(runs):
    plan, result = runs["gpu"]
    assert greedy_completion(plan, result) == result.summary["samples"]["student"]["completion"]


def test_a_resumed_run_ends_as_the_one_that_was_not_stopped(runs):
    """To rounding: kernels of a GPU may add in another order each time."""
    plan, result = runs["gpu"]
    finished = _steps(result.run_dir)
    for step in (4, 6):
        shutil.rmtree(result.run_dir / "checkpoints" / f"step_{step}")
    assert run(plan, resume="auto").exit_code == 0
    again = _steps(result.run_dir)
    assert [line["step"] for line in again] == [1, 2, 3, 4, 5, 6]
    are_equal = [a["loss"] == b["loss"] for a, b in zip(again, finished, strict=True)]
    print(f"\nsteps of the resumed run with the very same loss: {are_equal}")
    for mine, other in zip(again, finished, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


@pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is not None,
    reason="Transformer Engine is installed",
)
def test_kernels_that_are_not_installed_end_with_both_ways_out(home, tmp_path, capsys):
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_text(home, tmp_path / "run", cluster='device = "h100-80gb"'))
    assert main.run(["run", str(plan)]) == 1
    refusal = capsys.readouterr().err
    assert "error[GK525]" in refusal
    assert 'cluster.kernels = "torch"' in refusal
    assert "transformer-engine" in refusal
    assert "Traceback" not in refusal


def _steps(directory: Path) -> list[dict]:
    return [line for line in read_metrics(directory / "metrics.jsonl") if "loss" in line]
