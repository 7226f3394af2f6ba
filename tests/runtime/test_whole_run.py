"""Whole runs through the launcher: one curve in every layout, exact resume, the saved student."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gloo_ranks import launched_as_forks
from safetensors.torch import load_file, save_file
from saved_student import greedy_completion
from tiny_plans import compile_tiny, make_home

from gkdplan.diagnostics import UserError
from gkdplan.runtime.launch import run
from gkdplan.runtime.saved.claim import open_run_directory
from gkdplan.runtime.saved.run_directory import read_metrics

LAYOUTS = {
    "one": {"devices": 1, "tensor": 1},
    "tensor": {"devices": 2, "tensor": 2, "offload": "cpu"},
    "data": {"devices": 2, "tensor": 1, "distributed": "true"},
}
MIX = {"lmbda": 0.4, "seq_kd": 0.5}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def forks() -> Iterator[None]:
    """test_faults.py starts ranks as the command does."""
    with launched_as_forks():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runs(home, tmp_path_factory):
    """One finished run a layout, learning from all three sources."""
    root = tmp_path_factory.mktemp("runs")
    plans = {name: compile_tiny(home, root / name, **MIX, **axes) for name, axes in LAYOUTS.items()}
    return {name: (plan, run(plan)) for name, plan in plans.items()}


def _steps(directory: Path) -> list[dict]:
    return [line for line in read_metrics(directory / "metrics.jsonl") if "loss" in line]


def test_every_layout_logs_the_same_curve(runs):
    curves = {name: _steps(result.run_dir) for name, (_, result) in runs.items()}
    assert {len(curve) for curve in curves.values()} == {6}
    assert {line["source"] for line in curves["one"]} == {"student", "teacher", "dataset"}
    for name in ("tensor", "data"):
        for mine, one in zip(curves[name], curves["one"], strict=True):
            assert mine["source"] == one["source"]
            assert mine["num_tokens"] == one["num_tokens"]
            assert mine["loss"] == pytest.approx(one["loss"], abs=1e-4)


def test_training_lowers_the_held_out_divergence(runs):
    for _, result in runs.values():
        before, after = (result.summary[f"held_out_{when}"] for when in ("before", "after"))
        assert after["jsd"] < 0.9 * before["jsd"]


def test_the_saved_student_continues_greedily_as_the_runtime_does(runs):
    for plan, result in runs.values():
        sample = result.summary["samples"]["student"]
        assert greedy_completion(plan, result) == sample["completion"]


def test_the_whole_record_is_there(runs):
    plan, result = runs["tensor"]
    names = {path.name for path in result.run_dir.iterdir()}
    logs = {"metrics.jsonl", "completions.jsonl", "tokens.jsonl", "answers.jsonl"}
    assert names == {"plan.lock.json", "checkpoints", "rows", *logs}
    assert sorted(p.name for p in (result.run_dir / "checkpoints").iterdir()) == [
        "step_2",
        "step_4",
        "step_6",
    ]
    first = _steps(result.run_dir)[0]
    assert set(first["time_s"]) >= {"teacher", "student", "optimizer"}
    assert set(first["peak_bytes"]) == set(first["planned_peak_bytes"]) != set()
    assert not _steps(result.run_dir)[2]["peak_bytes"], "bytes are measured in two steps only"
    completions = (result.run_dir / "completions.jsonl").read_text().splitlines()
    sampled = sum(line["source"] != "dataset" for line in _steps(result.run_dir))
    assert len(completions) == sampled * plan.batch.global_rows
    assert {json.loads(line)["source"] for line in completions} == {"student", "teacher"}


@pytest.mark.parametrize("layout", ["tensor", "data"])
def test_a_resumed_run_ends_bit_identical(runs, layout, tmp_path):
    plan, result = runs[layout]
    finished = tmp_path / "finished"
    shutil.copytree(result.run_dir, finished)
    shutil.rmtree(result.run_dir / "checkpoints" / "step_6")
    shutil.rmtree(result.run_dir / "checkpoints" / "step_4")
    again = run(plan, resume="auto")
    assert again.exit_code == 0
    state = Path("checkpoints/step_6/state")
    for file in sorted((finished / state).glob("*.safetensors")):
        expected, found = load_file(file), load_file(result.run_dir / state / file.name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [line["step"] for line in _steps(result.run_dir)] == [1, 2, 3, 4, 5, 6]
    keys = ("step", "loss", "source", "grad_norm", "lr")
    assert [[line[k] for k in keys] for line in _steps(result.run_dir)] == [
        [line[k] for k in keys] for line in _steps(finished)
    ]
    assert again.summary["held_out_before"] == result.summary["held_out_before"]


def test_a_directory_of_another_run_is_refused_and_left_alone(runs, home):
    plan, result = runs["one"]
    other = compile_tiny(home, result.run_dir, steps=3, **LAYOUTS["one"])
    before = {path: path.stat().st_mtime_ns for path in result.run_dir.rglob("*")}
    for again, code in ((other, "GK510"), (plan, "GK513")):
        with pytest.raises(UserError) as refused:
            run(again)
        assert refused.value.diagnostics[0].code == code
    with pytest.raises(UserError) as refused:
        run(plan, resume="never")
    assert refused.value.diagnostics[0].code == "GK511"
    assert before == {path: path.stat().st_mtime_ns for path in result.run_dir.rglob("*")}


def test_a_directory_without_a_run_is_refused(home, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(UserError) as refused:
        run(compile_tiny(home, tmp_path))
    assert refused.value.diagnostics[0].code == "GK512"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_the_user_can_mend_comes_back_from_the_ranks_once(home, tmp_path):
    shutil.copytree(home, tmp_path / "home")
    plan = compile_tiny(tmp_path / "home", tmp_path / "run", **LAYOUTS["tensor"])
    (tmp_path / "home" / "rows.jsonl").write_text('{"prompt": "changed", "completion": "x"}\n')
    result = run(plan)
    assert (result.exit_code, [found.code for found in result.diagnostics]) == (1, ["GK470"])


def test_a_rank_that_raises_is_named_with_its_phase_and_traceback(home, tmp_path):
    plan = compile_tiny(home, tmp_path / "run", **LAYOUTS["tensor"])
    with open_run_directory(plan, "auto") as (directory, *_):
        directory.metrics.mkdir()
    result = run(plan)
    (found,) = result.diagnostics
    assert (result.exit_code, found.code) == (4, "GK530")
    assert found.message == "rank 0 raised in the load phase of step 0"
    assert found.notes[-1].startswith("IsADirectoryError")


def test_a_stage_that_raises_is_named_while_the_other_waits_for_it(home, tmp_path):
    """The teacher's last stage finds logits that are no numbers; the first waits for its token."""
    shutil.copytree(home, tmp_path / "home")
    file = tmp_path / "home" / "teacher" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, file, metadata={"format": "pt"})
    plan = compile_tiny(
        tmp_path / "home",
        tmp_path / "run",
        seq_kd=1.0,
        held_out="[]",
        devices=2,
        parallel="pipeline = 2\nfirst_stage_layers = 1",
    )
    started_s = time.monotonic()
    result = run(plan)
    assert time.monotonic() - started_s < 60
    (found,) = result.diagnostics
    assert (result.exit_code, found.code) == (4, "GK530")
    assert found.message == "rank 1 raised in the generate phase of step 1"
    assert found.notes[-1].startswith("FloatingPointError")
