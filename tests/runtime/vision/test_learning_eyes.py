"""Towers and projectors that learn: what they need, what is saved of them, and how they go on."""

import pytest
import torch
from gloo_ranks import launched_as_forks
from resumed_run import ends_in_the_same_bytes
from safetensors.torch import load_file
from test_vision_runs import (
    EYES_ALONE,
    INTERLEAVED,
    LAYOUTS,
    LEARNING_EYES,
    MIX,
    PLAN,
    RECOMPUTE,
    TOWER_ALONE,
    learns,
    make_home,
    measured_peaks,
)
from tiny_plans import compile_tiny
from tiny_vision import load_reference

from gkdplan.runplan.models import ModelPlan
from gkdplan.vision import canonical_name

IN_THE_GRID = ("llava", "qwen3-vl", "internvl")
KINDS = ["qwen-vl", *(pytest.param(kind, marks=pytest.mark.grid) for kind in IN_THE_GRID)]
ADAPTERS = """tuning = "lora"
[student.lora]
rank = 4
alpha = 16.0"""
BESIDE_ADAPTERS = f"{LEARNING_EYES}\n{ADAPTERS}"

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(
    "layout", [pytest.param("one process", marks=pytest.mark.grid), "pipeline 2"]
)
@pytest.mark.parametrize(
    "student",
    [
        pytest.param(LEARNING_EYES, id="all"),
        pytest.param(EYES_ALONE, id="eyes"),
        pytest.param(BESIDE_ADAPTERS, id="beside adapters", marks=pytest.mark.grid),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_learns_needs_what_the_ledger_says(kind, student, layout, tmp_path):
    changes = {**PLAN, **LAYOUTS[layout], "student": student}
    with launched_as_forks():
        ratios = measured_peaks(make_home(kind, tmp_path), tmp_path, **changes)
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.1)


@pytest.mark.grid
@pytest.mark.parametrize("student", [LEARNING_EYES, ""])
def test_layers_that_hear_a_tower_again_need_what_the_ledger_says(student, tmp_path):
    again = RECOMPUTE.format(method="uniform", num_layers=1)
    changes = {**PLAN, **LAYOUTS["pipeline 2"], "recompute": again, "student": student}
    with launched_as_forks():
        ratios = measured_peaks(make_home("qwen3-vl", tmp_path), tmp_path, **changes)
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.1)


@pytest.mark.grid
@pytest.mark.parametrize("kind", ["llava", "qwen-vl", "internvl"])
def test_a_tower_that_learns_on_interleaved_stages_needs_what_the_ledger_says(kind, tmp_path):
    changes = {**PLAN, **INTERLEAVED["interleaved"], "student": LEARNING_EYES}
    with launched_as_forks():
        ratios = measured_peaks(make_home(kind, tmp_path, 4), tmp_path, **changes)
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.1)


@pytest.mark.grid
@pytest.mark.parametrize("kind", ["llava", "qwen-vl", *IN_THE_GRID[1:]])
def test_a_tower_that_learns_behind_a_projector_that_does_not(kind, tmp_path):
    changes = {**PLAN, **LAYOUTS["one process"], "student": TOWER_ALONE}
    with launched_as_forks():
        ratios = measured_peaks(make_home(kind, tmp_path), tmp_path, **changes)
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.1)


RUNS = [
    pytest.param("llava", LEARNING_EYES, id="all of LLaVA"),
    pytest.param("llava", EYES_ALONE, id="LLaVA's eyes"),
    pytest.param("llava", BESIDE_ADAPTERS, id="LLaVA's eyes beside adapters"),
    pytest.param(
        "qwen3-vl", BESIDE_ADAPTERS, id="Qwen3-VL's beside adapters", marks=pytest.mark.grid
    ),
    pytest.param("qwen3-vl", LEARNING_EYES, id="all of Qwen3-VL", marks=pytest.mark.grid),
    pytest.param("internvl", EYES_ALONE, id="InternVL's eyes", marks=pytest.mark.grid),
]


@pytest.mark.parametrize(("kind", "student"), RUNS)
def test_a_run_goes_on_in_the_same_bytes_and_saves_what_learnt(kind, student, tmp_path):
    """On two stages, of which the last learns nothing where the eyes alone do: all that features
    depend on has moved, what they do not is as it was."""
    home = make_home(kind, tmp_path)
    run_plan = compile_tiny(
        home,
        home / "run",
        **{**MIX, "distributed": "true"},
        devices=2,
        parallel="pipeline = 2",
        student=student,
        held_out="[]",
        steps=4,
        save_interval=2,
    )
    saved = ends_in_the_same_bytes(run_plan) / "student"
    model = run_plan.models.student
    before, after = (load_file(path / "model.safetensors") for path in (home / "student", saved))
    assert before.keys() == after.keys()
    canonical = {name: canonical_name(model.shape.vision, name) for name in after}
    still = {n for n in after if not _moves(canonical[n], model)}
    assert {name for name in after if torch.equal(after[name], before[name])} == still
    load_reference(saved)


def _moves(name: str, model: ModelPlan) -> bool:
    """Of a decoder with adapters the projections."""
    is_of_decoder = not name.startswith(model.shape.vision.prefixes)
    is_adapted = model.lora is None or name.endswith("_proj.weight")
    return learns(name, model.freeze, model.shape.vision) and (is_adapted or not is_of_decoder)
