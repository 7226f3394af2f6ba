"""Planned bytes of a checkpoint are those that are written; a run begins only where they fit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Checkpoint, saving_of
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved import full_disk
from gkdplan.runtime.saved.run_directory import RunDirectory

NAME_BYTES = 250
"""Of a tensor at most: its name, shape and place in the file, and Adam's counter."""
RANK_BYTES = 25_000
"""Random states of a rank."""
LORA = 'tuning = "lora"\n[student.lora]\nrank = 4'
LAYOUTS = {
    "tensor": {"tensor": 2},
    "tied stages": {"parallel": "pipeline = 2"},
    "data, replicated": {"distributed": "false"},
    "data, bf16, average": {"dtype": "bf16", "teacher_model": 'self = "ema"\ndecay = 0.5'},
    "adapters": {"student": LORA, "tensor": 2},
    "experts": {"parallel": "expert = 2"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_planned_bytes_are_those_of_the_tensors_that_are_written(layout: str, tmp_path: Path):
    if layout == "experts":
        tiny.save_qwen3_moe(tmp_path / "teacher", seed=1)
        tiny.save_qwen3_moe(tmp_path / "student", seed=2)
    else:
        tiny.save_qwen2(tmp_path / "teacher", num_layers=2, seed=1)
        tiny.save_qwen2(tmp_path / "student", num_layers=2, seed=2)
    tiny.save_rows(tmp_path / "rows.jsonl")
    changes = {"devices": 2, "steps": 1, "held_out": "[]", **LAYOUTS[layout]}
    run_plan = compile_tiny(tmp_path, tmp_path / "run", **changes)
    run_on_ranks(_run, 2, encode(run_plan))
    saved = tmp_path / "run" / "checkpoints" / "step_1"
    weights = list(saved.rglob("*.safetensors"))
    planned = saving_of(run_plan.steps).num_bytes
    assert sum(map(_bytes_of_weights, weights)) == planned
    on_top = sum(file.stat().st_size for file in weights) - planned
    assert 0 < on_top < NAME_BYTES * sum(len(_tensors(file)) for file in weights) + 2 * RANK_BYTES


def _bytes_of_weights(file: Path) -> int:
    """But for random states and counters of steps."""
    places = [
        about["data_offsets"]
        for name, about in _tensors(file).items()
        if not name.startswith("random.") and about["shape"]
    ]
    return sum(end - start for start, end in places)


def _tensors(file: Path) -> dict[str, dict[str, list[int]]]:
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: about for name, about in header.items() if name != "__metadata__"}


def _run(lock: str) -> None:
    Executor(open_silently(lock)).run(0)


NUM_STEPS, EACH = 10, 1_000_000


@pytest.mark.parametrize(
    ("interval", "keep", "saved", "start_step", "num_wanted"),
    [
        (2, 2, (), 0, 3),
        (2, 2, (2, 4), 4, 1),
        (2, 8, (), 0, 5),
        (4, 9, (), 0, 3),
        (None, 2, (), 0, 1),
        (None, 2, (7,), 7, 1),
        (2, 1, (2, 4, 6), 6, 0),
    ],
)
def test_a_run_begins_only_where_its_checkpoints_have_room(
    interval, keep, saved, start_step, num_wanted, run_plan, tmp_path, monkeypatch
):
    for step in saved:
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
    plan = _saving(run_plan, interval, keep)
    free = num_wanted * EACH
    monkeypatch.setattr(full_disk, "free_bytes", lambda path: free)
    full_disk.check_room(plan, RunDirectory(tmp_path), start_step)
    free -= 1
    if num_wanted:
        with pytest.raises(UserError) as refused:
            full_disk.check_room(plan, RunDirectory(tmp_path), start_step)
        (found,) = refused.value.diagnostics
        assert (found.code, found.path) == ("GK538", "run.output")


@pytest.mark.parametrize("interval", [1, 3])
def test_a_disk_that_is_too_small_says_how_many_fit(interval, run_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(full_disk, "free_bytes", lambda path: 3 * EACH + 1)
    with pytest.raises(UserError) as refused:
        full_disk.check_room(_saving(run_plan, interval, keep=8), RunDirectory(tmp_path), 0)
    (found,) = refused.value.diagnostics
    assert "or lower `run.keep` to 2: " in found.help[1]
    full_disk.check_room(_saving(run_plan, interval, keep=2), RunDirectory(tmp_path), 0)


def _saving(run_plan: RunPlan, interval: int | None, keep: int) -> RunPlan:
    saving = Checkpoint(interval, keep, EACH, num_at_once=keep + 1)
    training = replace(run_plan.training, num_steps=NUM_STEPS, save_interval=interval, keep=keep)
    return replace(run_plan, training=training, steps=(*run_plan.steps[:-1], saving))
