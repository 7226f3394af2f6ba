"""`--quiet`: results and errors, and nothing beside them."""

import os
from pathlib import Path

import pytest

from gkdplan.cli.main import run

PLAN = str(Path(__file__).parents[2] / "plans" / "qwen3-8b-to-0.6b.toml")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(Path(PLAN).parents[1])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("command", ["plan", "memory", "show"])
def test_a_result_stands_alone(command: str, capsys: pytest.CaptureFixture[str]):
    assert run([command, PLAN]) == 0
    said = capsys.readouterr()
    assert "note[GK111]" in said.err
    assert run([command, PLAN, "--quiet"]) == 0
    assert capsys.readouterr() == (said.out, "")


def test_check_says_its_verdict_and_no_note(capsys: pytest.CaptureFixture[str]):
    assert run(["check", "-q", PLAN]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("qwen3-8b-to-0.6b: fits, peak ")
    assert out.count("\n") == 1


def test_errors_are_said(capsys: pytest.CaptureFixture[str]):
    bad = Path(__file__).parents[1] / "bad_plans" / "GK002_unknown_keys.toml"
    assert run(["check", "--quiet", str(bad)]) == 1
    assert "error[GK002]" in capsys.readouterr().out


def test_a_file_is_written_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lock = tmp_path / "plan.lock.json"
    assert run(["plan", PLAN, "-q", "-o", str(lock)]) == 0
    assert capsys.readouterr().err == ""
    assert lock.exists()


def test_the_next_command_is_as_it_was(capsys: pytest.CaptureFixture[str]):
    assert run(["plan", PLAN, "-q"]) == 0
    assert "GKDPLAN_QUIET" not in os.environ
