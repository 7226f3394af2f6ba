"""What `check --data` takes, `run` runs: random small plans, each that is good really run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from small_plans import save_models, small_plan

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


def good_plans(world: Path, seeds: range) -> Iterator[int]:
    """The seeds whose plan has no error; plan.toml is the plan of the one that is given."""
    for seed in seeds:
        (world / "plan.toml").write_text(small_plan(Random(seed)))
        if command(world, "check", "--data").returncode == 0:
            yield seed


@pytest.mark.grid
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", range(SHARES))
def test_what_check_takes_runs(world: Path, share: int) -> None:
    """At 14% good plans, 150 seeds hold the runs of a share."""
    seeds = range(1000 * share, 1000 * share + 150)
    for _, seed in zip(range(RUNS_OF_A_SHARE), good_plans(world, seeds), strict=False):
        shutil.rmtree(world / "run", ignore_errors=True)
        ended = command(world, "run")
        assert ended.returncode == 0, f"seed {seed}: {ended.stderr[-3000:]}"
        assert (world / "run" / "metrics.jsonl").read_text().count("\n") >= 2
