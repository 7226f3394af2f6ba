"""`gkdplan sample` that is stopped: its exit code, what it leaves, and that it ends in one file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from sampled import sample_tiny
from tiny_plans import make_home, plan_text

from gkdplan.runtime.samples.partial import partial_of

COMMAND = (
    sys.executable, "-c", "from gkdplan.cli.main import main; main()",
    "sample", "plan.toml", "--source", "teacher", "-o", "drawn.jsonl",
)  # fmt: skip
NUM_ROWS = 256
CHANGES = {"rows": 4, "micro": 1, "held_out": "[]"}

pytestmark = [pytest.mark.timeout(600), pytest.mark.grid]


class Attempt:
    """The command in a session of its own, so that none of its processes can be missed."""

    def __init__(self, place: Path) -> None:
        self.partial = partial_of(place / "drawn.jsonl")
        self.process = subprocess.Popen(
            COMMAND, cwd=place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def num_lines(self) -> int:
        return self.partial.read_bytes().count(b"\n") if self.partial.exists() else 0

    def stop_after_more_samples(self, stop: Callable[["Attempt"], None]) -> tuple[int, str]:
        """The exit code and stderr; none of its processes is left."""
        before, deadline = self.num_lines(), time.monotonic() + 240
        while self.num_lines() <= max(1, before):
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        stop(self)
        _, err = self.process.communicate(timeout=120)
        deadline = time.monotonic() + 5
        while (left := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []
        return self.process.returncode, err

    def rank(self) -> int:
        children = psutil.Process(self.process.pid).children()
        return next(p.pid for p in children if any("spawn_main" in part for part in p.cmdline()))

    def _alive(self) -> list[int]:
        return [p.pid for p in psutil.process_iter() if self._is_ours(p)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            is_ours = os.getsid(process.pid) == self.process.pid
            return is_ours and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False


STOPS = {
    "SIGTERM": (lambda a: a.process.terminate(), 4, "error[GK533]: sampling was stopped"),
    "Ctrl-C": (lambda a: os.killpg(a.process.pid, signal.SIGINT), 130, "error[GK533]: sampling"),
    "killed rank": (lambda a: os.kill(a.rank(), signal.SIGKILL), 4, "error[GK531]: rank 0 ended"),
}


def test_every_stop_leaves_what_the_next_attempt_goes_on_with(tmp_path):
    home = make_home(tmp_path / "home")
    rows = (home / "rows.jsonl").read_text()
    (home / "rows.jsonl").write_text(rows * (NUM_ROWS // 8))
    (tmp_path / "plan.toml").write_text(plan_text(home, "run", **CHANGES))
    for stop, exit_code, reason in STOPS.values():
        attempt = Attempt(tmp_path)
        found_code, err = attempt.stop_after_more_samples(stop)
        assert (found_code, reason in err) == (exit_code, True), err
        assert "it goes on with the rows that have no sample yet" in " ".join(err.split())
        assert not (tmp_path / "drawn.jsonl").exists()
    last = Attempt(tmp_path)
    _, err = last.process.communicate(timeout=300)
    assert last.process.returncode == 0, err
    assert "rows were sampled before" in err
    assert not last.partial.exists()
    assert sample_tiny(home, tmp_path / "whole.jsonl", **CHANGES).exit_code == 0
    assert (tmp_path / "drawn.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
