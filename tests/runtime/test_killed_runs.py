"""kill -9 of any rank at any time: the same command goes on, and ends in the same bytes."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from attempt import Attempt, Ending
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home, make_home_for_vllm, plan_text

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import RunDirectory, read_metrics

PER_KILL = 3
"""Steps of the run for each time that a rank is killed."""
LAYOUTS = {
    "stages": {"parallel": "pipeline = 2", "teacher": "[teacher.parallel]\ntensor = 2"},
    "data": {"distributed": "true"},
    "tensor": {"tensor": 2, "save_interval": "1\nasync_save = true"},
    "engines": {"generation": 'engine = "vllm"\ngpu_memory_utilization = 0.004'},
}
SAMPLES = {"lmbda": 0.5, "seq_kd": 0.3, "devices": 2, "save_interval": 2, "rows": 4}
CASES = [
    pytest.param("data", 2, id="twice", marks=pytest.mark.grid),
    *(pytest.param(layout, 20, marks=pytest.mark.grid) for layout in LAYOUTS),
]

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize(("layout", "num_kills"), CASES)
def test_ranks_killed_at_random_leave_no_trace_in_what_the_run_ends_with(
    layout: str, num_kills: int, tmp_path: Path
):
    draw = random.Random(f"{layout} {num_kills}")
    num_steps = PER_KILL * num_kills + 2
    changes = SAMPLES | LAYOUTS[layout] | {"steps": num_steps}
    make = make_home_for_vllm if layout == "engines" else make_home
    home = make(tmp_path / "home")
    (tmp_path / "plan.toml").write_text(plan_text(home, "run", **changes))
    for step in sorted(draw.randrange(num_steps) for _ in range(num_kills)):
        ending = _kill_a_rank(tmp_path, step, draw)
        assert ending.exit_code == 4, ending.err
        assert "error[GK531]: rank " in ending.err, ending.err
        assert "Traceback" not in ending.err, ending.err
        assert ending.left == []
    run, whole = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "whole")
    if run.saved_steps()[-1] < num_steps:
        finished = Attempt(tmp_path).end()
        assert finished.exit_code == 0, finished.err

    run_plan = compile_tiny(home, whole.path, **changes)
    run_on_ranks(_run, 2, encode(run_plan))
    assert _files(run.checkpoint(num_steps)) == _files(whole.checkpoint(num_steps))
    assert _lines(run.metrics) == _lines(whole.metrics)
    assert run.completions.read_bytes() == whole.completions.read_bytes()
    assert run.tokens.read_bytes() == whole.tokens.read_bytes()
    left = {path.name for path in run.checkpoints.iterdir()}
    assert left == {f"step_{step}" for step in run.saved_steps()}


def _kill_a_rank(place: Path, step: int, draw: random.Random) -> Ending:
    """SIGKILL to either rank at a random moment after the run has logged `step`, or, where an
    earlier attempt did, after the ranks have started."""
    rank, after_s = draw.randrange(2), draw.uniform(0, 0.4)
    attempt = Attempt(place)
    attempt.wait_until(lambda: len(attempt.ranks()) == 2)
    attempt.wait_until(lambda: _last_step(attempt.directory.metrics) >= step)
    time.sleep(after_s)
    os.kill(attempt.ranks()[rank], signal.SIGKILL)
    return attempt.end()


def _last_step(metrics: Path) -> int:
    """The last line may be half there."""
    whole = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
    return len(whole)


def _files(directory: Path) -> dict[str, bytes]:
    """But those that name the plan, whose output is another."""
    files = (path for path in directory.rglob("*") if path.is_file())
    named = {str(path.relative_to(directory)): path.read_bytes() for path in files}
    return {
        name: named[name] for name in named if not name.endswith(("state.json", "manifest.json"))
    }


def _lines(metrics: Path) -> list[dict[str, object]]:
    """But for what clocks and meters say."""
    measured = ("time_s", "peak_bytes", "planned_peak_bytes")
    lines = read_metrics(metrics)
    return [{key: line[key] for key in line if key not in measured} for line in lines]


def _run(lock: str) -> None:
    Executor(open_silently(lock)).run(0)
