"""A student that sees and has experts: every axis, its samples, what it needs and what it saves."""

from pathlib import Path

import pytest
import torch
from gloo_ranks import launched_as_forks, run_on_ranks
from safetensors.torch import load_file
from test_vision_runs import (
    LEARNING_EYES,
    MIX,
    PLAN,
    check_greedy,
    check_step,
    make_home,
    measured_peaks,
)
from tiny_plans import compile_tiny
from tiny_vision import load_reference

from gkdplan.runplan.codec import encode
from gkdplan.runtime.launch import run

LAYOUTS = {
    "expert 2": {"devices": 2, "parallel": "expert = 2"},
    "tensor 2": {"devices": 2, "tensor": 2, "parallel": "expert_tensor = 2"},
    "tensor and expert 2": {"devices": 2, "tensor": 2, "parallel": "expert = 2"},
    "pipeline 2": {"devices": 2, "parallel": "pipeline = 2"},
    "context 2": {"devices": 2, "parallel": "context = 2"},
}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home("qwen3-vl-moe", tmp_path)


@pytest.mark.parametrize(
    "layout",
    [n if n == "expert 2" else pytest.param(n, marks=pytest.mark.grid) for n in LAYOUTS],
)
def test_all_of_it_has_the_gradients_of_float64(layout, home):
    changes = {**PLAN, **LAYOUTS[layout], "student": LEARNING_EYES}
    run_on_ranks(check_step, 2, encode(compile_tiny(home, home / "run", **changes)))


@pytest.mark.grid
@pytest.mark.parametrize("layout", ["expert 2", "tensor 2", "pipeline 2"])
def test_greedy_samples_are_those_of_transformers(layout, home):
    run_on_ranks(
        check_greedy, 2, encode(compile_tiny(home, home / "run", **MIX, **LAYOUTS[layout]))
    )


@pytest.mark.grid
@pytest.mark.parametrize("layout", ["expert 2", "pipeline 2"])
def test_it_needs_what_the_ledger_says(layout, home):
    with launched_as_forks():
        ratios = measured_peaks(home, home, **PLAN, **LAYOUTS[layout])
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.1)


@pytest.mark.grid
def test_a_run_teaches_and_saves_it(home):
    changes = {**MIX, **LAYOUTS["expert 2"], "steps": 6}
    with launched_as_forks():
        result = run(compile_tiny(home, home / "run", **changes))
    assert result.exit_code == 0, result.diagnostics
    before, after = (result.summary[f"held_out_{when}"] for when in ("before", "after"))
    assert after["jsd"] < before["jsd"]
    saved, source = (
        load_file(path / "model.safetensors") for path in (result.student_dir, home / "student")
    )
    assert {n: t.shape for n, t in saved.items()} == {n: t.shape for n, t in source.items()}
    for name in saved:
        assert torch.equal(saved[name], source[name]) == ("visual." in name), name
    _, report = load_reference(result.student_dir, output_loading_info=True)
    assert not any(report.values()), report
