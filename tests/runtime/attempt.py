"""`gkdplan run` as a user starts it, watched from outside."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from gkdplan.runtime.saved.run_directory import RunDirectory

COMMAND = (sys.executable, "-c", "from gkdplan.cli.main import main; main()", "run", "plan.toml")


@dataclass(frozen=True)
class Ending:
    """How an attempt ended; `first_step` is the step after which it began, `left` are processes and
    `litter` temporary files that are still there."""

    first_step: int
    exit_code: int
    err: str
    left: list[int]
    litter: list[str]
    took_s: float


class Attempt:
    """`gkdplan run` in a session of its own, so that none of its processes can be missed."""

    def __init__(self, place: Path) -> None:
        self.directory = RunDirectory(place / "run")
        self.first_step = self.newest()
        self.temporary = Path(tempfile.mkdtemp(prefix="tmp", dir=place))
        self.process = subprocess.Popen(
            COMMAND, cwd=place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)},
        )  # fmt: skip

    def newest(self) -> int:
        return max(self.directory.saved_steps(), default=0)

    def wait_for_a_checkpoint(self) -> None:
        self.wait_until(lambda: self.newest() > self.first_step)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.02)

    def ranks(self) -> list[int]:
        """The processes of the ranks, in the order of the ranks."""
        children = psutil.Process(self.process.pid).children()
        return sorted(p.pid for p in children if any("spawn_main" in part for part in p.cmdline()))

    def end(self) -> Ending:
        """Wait for the command, then look for processes of its session that are still running."""
        began_s = time.monotonic()
        _, err = self.process.communicate(timeout=120)
        took_s = time.monotonic() - began_s
        deadline = time.monotonic() + 5
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        litter = [path.name for path in self.temporary.iterdir()]
        return Ending(self.first_step, self.process.returncode, err, left, litter, took_s)

    def alive(self) -> list[int]:
        return [p.pid for p in psutil.process_iter() if self._is_running(p)]

    def _is_running(self, process: psutil.Process) -> bool:
        try:
            is_ours = os.getsid(process.pid) == self.process.pid
            return is_ours and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
