"""What `check --data` takes, `run` runs: random small plans, each that is good really run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from small_plans import (
    SEEING,
    save_models,
    save_seeing_models,
    small_plan,
    small_seeing_plan,
)

SHARES = 8
RUNS_OF_A_SHARE = 12
COMMAND = [sys.executable, "-c", "from gkdplan.cli.main import main; main()"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    save_models(root)
    return root


def command(world: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words, "plan.toml"],
        cwd=world,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GKDPLAN_TRACEBACK": "1"},
    )


def good_plans(world: Path, seeds: range, plan_of: Callable[[Random], str]) -> Iterator[int]:
    """The seeds whose plan has no error; plan.toml is the plan of the one that is given."""
    for seed in seeds:
        (world / "plan.toml").write_text(plan_of(Random(seed)))
        if command(world, "check", "--data").returncode == 0:
            yield seed


def run_good_plans(world: Path, seeds: range, plan_of: Callable[[Random], str]) -> None:
    good = good_plans(world, seeds, plan_of)
    for _, seed in zip(range(RUNS_OF_A_SHARE), good, strict=False):
        shutil.rmtree(world / "run", ignore_errors=True)
        ended = command(world, "run")
        assert ended.returncode == 0, f"seed {seed}: {ended.stderr[-3000:]}"
        assert (world / "run" / "metrics.jsonl").read_text().count("\n") >= 2


@pytest.mark.grid
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", range(SHARES))
def test_what_check_takes_runs(world: Path, share: int) -> None:
    """At 14% good plans, 150 seeds hold the runs of a share."""
    run_good_plans(world, range(1000 * share, 1000 * share + 150), small_plan)


@pytest.mark.grid
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", SEEING)
def test_what_check_takes_of_models_that_see_runs(kind: str, tmp_path: Path) -> None:
    save_seeing_models(tmp_path, kind)
    run_good_plans(tmp_path, range(150), small_seeing_plan)
