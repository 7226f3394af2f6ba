"""Thousands of mutated plans: every one ends in findings or in a verdict, and changes nothing."""

import contextlib
import io
import json
import os
from pathlib import Path
from random import Random

import pytest
from bad_plan_world import build_world
from deeds import deeds
from plan_mutations import mutated_plan

from gkdplan.cli.main import run

COMMANDS = [["check"], ["plan"], ["memory"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("HF_HUB_CACHE", str(world / "hub"))


def answer(command: list[str]) -> dict:
    """The document of a command that found errors or none; everything else fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with (
        deeds() as done,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = run([*command, "plan.toml", "--json"])
    assert status in (0, 1), err.getvalue()
    assert done == []
    document = json.loads(out.getvalue())
    assert document["ok"] == (status == 0)
    return document


def outcomes(seeds: range) -> list[bool]:
    """Whether each seed's plan is good."""
    return [_outcome(seed) for seed in seeds]


def _outcome(seed: int) -> bool:
    text = mutated_plan(Random(seed))
    Path("plan.toml").write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    lines = text.splitlines() or [""]
    try:
        document = answer(COMMANDS[seed % len(COMMANDS)])
        for finding in document["diagnostics"]:
            assert finding["message"].isprintable()
            span = finding["span"]
            assert span is None or 1 <= span["line"] <= len(lines) + 1
    except BaseException as failure:
        failure.add_note(f"seed {seed}")
        raise
    return document["ok"]


def test_no_mutation_of_a_plan_brings_a_traceback_or_a_deed() -> None:
    good = outcomes(range(800))
    assert 0.01 < sum(good) / len(good) < 0.5


@pytest.mark.grid
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("start", range(10_000, 40_000, 10_000))
def test_no_mutation_of_many_plans_brings_a_traceback_or_a_deed(start: int) -> None:
    outcomes(range(start, start + 10_000))


def test_a_deed_is_seen(tmp_path: Path) -> None:
    with deeds() as done:
        (tmp_path / "mark").write_text("x")
        os.mkdir(tmp_path / "more")
    assert [deed.split()[0] for deed in done] == ["write", "write"]
