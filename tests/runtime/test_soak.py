"""Hundreds of steps with samples: no memory, file or process is kept that a step does not need."""

import contextlib
import time
from pathlib import Path
from statistics import median

import psutil
import pytest
from attempt import Attempt
from tiny_plans import make_home, plan_text

NUM_STEPS, WARM = 300, 20
LAYOUTS = {
    "one process": {},
    "tensor, checkpoints": {"devices": 2, "tensor": 2, "save_interval": 10},
}
SAMPLES = {"lmbda": 0.6, "seq_kd": 0.4, "steps": NUM_STEPS, "held_out": "[]"}

pytestmark = [pytest.mark.timeout(1800), pytest.mark.grid]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_files_and_threads_stay_what_they_were_after_twenty_steps(layout, tmp_path: Path):
    home = make_home(tmp_path / "home")
    changes = {"save_interval": NUM_STEPS} | SAMPLES | LAYOUTS[layout]
    (tmp_path / "plan.toml").write_text(plan_text(home, "run", **changes))
    attempt = Attempt(tmp_path)
    attempt.wait_until(lambda: len(attempt.ranks()) == changes.get("devices", 1))
    processes = [psutil.Process(pid) for pid in [attempt.process.pid, *attempt.ranks()]]
    seen: dict[int, list[tuple[int, ...]]] = {}
    while attempt.process.poll() is None:
        with contextlib.suppress(psutil.Error):
            seen[_step(attempt.directory.metrics)] = [_of(process) for process in processes]
        time.sleep(0.05)
    ending = attempt.end()
    assert ending.exit_code == 0, ending.err
    assert ending.left == []
    steps = sorted(step for step in seen if WARM <= step < NUM_STEPS)
    assert len(steps) > NUM_STEPS / 4
    for index, _ in enumerate(processes):
        resident, files, threads = zip(*(seen[step][index] for step in steps), strict=True)
        first, last, most = median(resident[:10]), median(resident[-10:]), max(resident)
        print(f"{layout}, process {index}: {first:,} {last:,} {most:,} {files[0]} {threads[0]}")
        assert abs(last - first) < 0.01 * first
        assert most < 1.01 * first
        assert max(files[-10:]) <= max(files[:10])
        assert max(threads[-10:]) <= max(threads[:10])


def _of(process: psutil.Process) -> tuple[int, int, int]:
    return process.memory_info().rss, process.num_fds(), process.num_threads()


def _step(metrics: Path) -> int:
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0
