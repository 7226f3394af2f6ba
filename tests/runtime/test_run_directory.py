"""One plan, one run, one process at a time in a run directory, and nothing of others touched."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import decode, seal
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.saved.claim import open_run_directory
from gkdplan.runtime.saved.manifest import write_manifest
from gkdplan.runtime.saved.run_directory import RunDirectory


def _into(run_plan: RunPlan, output: Path | str, **changes: object) -> RunPlan:
    training = replace(run_plan.training, output=str(output), **changes)
    return seal(replace(run_plan, training=training))


def _refusal(run_plan: RunPlan, resume: str = "auto") -> str:
    with pytest.raises(UserError) as refused, open_run_directory(run_plan, resume):
        pass
    return refused.value.diagnostics[0].code


def _save(directory: Path, *steps: int) -> None:
    for step in steps:
        state = directory / "checkpoints" / f"step_{step}" / "state"
        state.mkdir(parents=True)
        (state / "state.json").write_text(json.dumps({"step": step}))
        (state / "rank_0.safetensors").write_bytes(bytes(range(step)))
        write_manifest(state.parent, {})


def test_a_new_directory_holds_the_plan_and_starts_at_the_beginning(run_plan, tmp_path):
    plan = _into(run_plan, tmp_path / "new" / "run")
    with open_run_directory(plan, "auto") as (directory, start_step, _):
        assert start_step == 0
        assert decode(directory.lock.read_text()) == plan


def test_a_run_that_goes_on_is_refused_until_it_has_ended(run_plan, tmp_path):
    plan = _into(run_plan, tmp_path)
    with open_run_directory(plan, "auto"):
        assert _refusal(plan) == "GK518"
        assert _refusal(_into(run_plan, tmp_path, seed=1)) == "GK518"
    with open_run_directory(plan, "auto") as (_, start_step, _):
        assert start_step == 0


def test_auto_goes_on_from_the_newest_whole_checkpoint(run_plan, tmp_path):
    plan = _into(run_plan, tmp_path)
    with open_run_directory(plan, "auto"):
        _save(tmp_path, 2, 10, 11)
        (tmp_path / "checkpoints" / "step_11").rename(tmp_path / "checkpoints" / "step_best")
    with open_run_directory(plan, "auto") as (_, start_step, _):
        assert start_step == 10
    assert _refusal(plan, "never") == "GK511"
    assert _refusal(plan, str(tmp_path / "checkpoints" / "step_12")) == "GK514"


FLAWS = {
    "other bytes": lambda step: _change_a_bit(step / "state" / "rank_0.safetensors"),
    "cut short": lambda step: os.truncate(step / "state" / "rank_0.safetensors", 5),
    "a missing state": lambda step: (step / "state" / "state.json").unlink(),
    "no manifest": lambda step: (step / "manifest.json").unlink(),
    "a manifest cut short": lambda step: os.truncate(step / "manifest.json", 40),
    "a manifest of something else": lambda step: (step / "manifest.json").write_text("[1]"),
    "a file of elsewhere": lambda step: _replace_by_link(step / "state" / "rank_0.safetensors"),
}


@pytest.mark.parametrize("harm", FLAWS)
def test_a_checkpoint_that_is_not_whole_is_skipped_and_named(harm, run_plan, tmp_path):
    plan = _into(run_plan, tmp_path)
    with open_run_directory(plan, "auto"):
        _save(tmp_path, 4, 6, 8)
    for step in ("step_6", "step_8"):
        FLAWS[harm](tmp_path / "checkpoints" / step)
    asked = str(tmp_path / "checkpoints" / "step_6")
    assert _refusal(plan, asked) == "GK517"
    with open_run_directory(plan, "auto") as (directory, start_step, skipped):
        assert start_step == 4
        assert directory.saved_steps() == [4]
    assert [(found.code, found.severity) for found in skipped] == [("GK535", "warning")] * 2
    assert "step_8` is not whole: " in skipped[0].message
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"step_4", "step_6.broken", "step_8.broken"}


def test_a_run_with_no_whole_checkpoint_does_not_begin_anew_unasked(run_plan, tmp_path):
    plan = _into(run_plan, tmp_path)
    with open_run_directory(plan, "auto"):
        _save(tmp_path, 4)
    FLAWS["other bytes"](tmp_path / "checkpoints" / "step_4")
    assert _refusal(plan) == "GK517"
    assert (tmp_path / "checkpoints" / "step_4").is_dir()


def _change_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)


def _replace_by_link(path: Path) -> None:
    moved = path.rename(path.with_name("moved"))
    path.symlink_to(moved)


def test_a_run_goes_on_under_newer_prices_and_its_directory_shows_them(run_plan, tmp_path):
    plan = _into(run_plan, tmp_path)
    with open_run_directory(plan, "auto"):
        _save(tmp_path, 2)
    ledger = replace(plan.ledger, peak_bytes=plan.ledger.peak_bytes + 1)
    repriced = seal(replace(plan, tool="gkdplan 9.9.9", ledger=ledger))
    with open_run_directory(repriced, "auto") as (directory, start_step, _):
        assert start_step == 2
        assert decode(directory.lock.read_text()) == repriced


def test_an_older_checkpoint_sets_the_later_ones_aside(run_plan, tmp_path):
    plan = _into(run_plan, tmp_path)
    with open_run_directory(plan, "auto"):
        _save(tmp_path, 2, 4, 24)
    assert _refusal(plan) == "GK513"
    asked = tmp_path / "checkpoints" / ".." / "checkpoints" / "step_2"
    with open_run_directory(plan, str(asked)) as (directory, start_step, _):
        assert start_step == 2
        assert directory.saved_steps() == [2]
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"step_2", "step_4.superseded", "step_24.superseded"}


def test_a_run_goes_on_in_another_layout_and_says_so(run_plan, tmp_path):
    plan = _into(run_plan, tmp_path)
    with open_run_directory(plan, "auto"):
        _save(tmp_path, 2)
    layout = replace(plan.layout, student=replace(plan.layout.student, tensor=1, data=2))
    moved = seal(replace(plan, layout=layout))
    with open_run_directory(moved, "auto") as (directory, start_step, found):
        assert start_step == 2
        assert decode(directory.lock.read_text()) == moved
    assert [(d.code, d.severity) for d in found] == [("GK539", "note")]
    assert found[0].notes == (
        "`layout.student.data` was 1, is 2",
        "`layout.student.tensor` was 2, is 1",
    )
    with open_run_directory(moved, "auto") as (_, start_step, found):
        assert (start_step, found) == (2, ())


def test_a_plan_that_learns_otherwise_is_refused_with_the_keys(run_plan, tmp_path):
    plan = _into(run_plan, tmp_path)
    with open_run_directory(plan, "auto"):
        _save(tmp_path, 2)
    optimizer = replace(plan.optimizer, lr=1.0, weight_decay=0.0)
    layout = replace(plan.layout, student=replace(plan.layout.student, tensor=1, data=2))
    other = seal(replace(plan, optimizer=optimizer, layout=layout))
    with pytest.raises(UserError) as refused, open_run_directory(other, "auto"):
        pass
    (found,) = refused.value.diagnostics
    assert found.code == "GK510"
    assert found.notes == (
        f"`optimizer.lr` was {plan.optimizer.lr}, is 1.0",
        "`optimizer.weight_decay` was 0.1, is 0.0",
    )
    assert decode(RunDirectory(tmp_path).lock.read_text()) == plan


def test_another_plan_may_have_the_directory_until_something_was_logged(run_plan, tmp_path):
    with open_run_directory(_into(run_plan, tmp_path), "auto"):
        pass
    other = _into(run_plan, tmp_path, seed=1)
    with open_run_directory(other, "never") as (directory, start_step, _):
        assert start_step == 0
        assert decode(directory.lock.read_text()) == other
        directory.metrics.write_text("{}\n")
    assert _refusal(_into(run_plan, tmp_path)) == "GK510"


def test_a_directory_of_something_else_is_left_alone(run_plan, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    assert _refusal(_into(run_plan, tmp_path)) == "GK512"
    assert _refusal(_into(run_plan, tmp_path / "thesis.tex")) == "GK512"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_no_checkpoint_of_a_directory_that_is_not_there_makes_none(run_plan, tmp_path):
    assert _refusal(_into(run_plan, tmp_path / "new"), "step_1") == "GK514"
    assert not (tmp_path / "new").exists()


def test_a_damaged_lock_is_refused_and_kept(run_plan, tmp_path):
    lock = RunDirectory(tmp_path).lock
    for content, code in ((b"{", "GK502"), (b"\xff\xfe", "GK505")):
        lock.write_bytes(content)
        assert _refusal(_into(run_plan, tmp_path)) == code
        assert lock.read_bytes() == content


@pytest.mark.parametrize("name", ["a" * 300, "\0", "file/run", "dangling"])
def test_a_directory_that_cannot_be_made_is_refused(run_plan, tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "nothing")
    assert _refusal(_into(run_plan, f"{tmp_path}/{name}")) == "GK505"
