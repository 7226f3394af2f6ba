"""A disk that fills up: what was whole stays whole, and the run goes on when there is room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_plans import make_home, plan_text

from gkdplan.runtime.saved.manifest import flaw
from gkdplan.runtime.saved.run_directory import RunDirectory, read_metrics

MAIN = "from gkdplan.cli.main import main; main()"
BLIND = (
    "from gkdplan.runtime.saved import full_disk; full_disk.free_bytes = lambda path: 2**40; "
    f"{MAIN}"
)
"""As on a disk that others fill after the run has looked at it."""
SIZE = 8 * 2**20

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of `SIZE` bytes; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


BESIDE = "async_save = true"


@pytest.mark.parametrize(
    ("free", "way"),
    [
        (200_000, ""),
        *(pytest.param(more, "", marks=pytest.mark.grid) for more in (1_000, 500_000)),
        *(pytest.param(more, BESIDE, marks=pytest.mark.grid) for more in (1_000, 200_000, 500_000)),
    ],
)
def test_what_was_whole_stays_whole_on_a_full_disk(
    free: int, way: str, small_disk: Path, tmp_path: Path
):
    home = make_home(tmp_path / "home")
    interval = f"2\n{way}"
    text = plan_text(home, small_disk / "run", steps=6, save_interval=interval, held_out="[]")
    (tmp_path / "plan.toml").write_text(text)
    directory = RunDirectory(small_disk / "run")
    (small_disk / "ballast").write_bytes(bytes(SIZE - _checkpoint_bytes(home, tmp_path) - free))
    stopped = _run(tmp_path, BLIND)
    assert stopped.returncode == 4, stopped.stderr
    assert "error[GK536]: the disk of" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    saved = directory.saved_steps()
    assert len(saved) <= 2
    assert [flaw(directory.checkpoint(step)) for step in saved] == [None] * len(saved)
    (small_disk / "ballast").unlink()
    finished = _run(tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert directory.saved_steps()[-1] == 6
    losses = [line["step"] for line in read_metrics(directory.metrics) if "loss" in line]
    assert losses == list(range(1, 7))


def _checkpoint_bytes(home: Path, tmp_path: Path) -> int:
    """Of one checkpoint of a run of this plan with room enough."""
    whole = tmp_path / "whole"
    whole.mkdir()
    text = plan_text(home, whole / "run", steps=1, save_interval=1, held_out="[]")
    (whole / "plan.toml").write_text(text)
    assert _run(whole).returncode == 0
    files = (whole / "run" / "checkpoints").rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _run(place: Path, main: str = MAIN) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-c", main, "run", "plan.toml")
    return subprocess.run(
        command, cwd=place, env=env, capture_output=True, text=True, timeout=200, check=False
    )
