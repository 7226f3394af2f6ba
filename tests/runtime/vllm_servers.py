"""Real servers of vLLM, started by `gkdplan serve` on this machine; each ends with the tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

START_LIMIT_S = 240.0
"""About 25 s alone; several on a loaded machine take longer."""
SERVE = (sys.executable, "-c", "from gkdplan.cli.main import main; main()", "serve")
KEY = os.environ["VLLM_API_KEY"]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_API_KEY": KEY,
    "TRITON_INTERPRET": "0",
    "PYTHONWARNINGS": "ignore",
}


def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@dataclass
class VllmServer:
    """`gkdplan serve` in a session of its own, so that none of its processes can be missed."""

    plan: Path
    url: str
    log: Path
    process: subprocess.Popen

    def wait_until_up(self) -> "VllmServer":
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            try:
                if requests.get(f"{self.url}/health", timeout=5).ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.2)
        raise TimeoutError(self.log.read_text()[-4000:])

    def signal(self, number: signal.Signals) -> None:
        """To the command's own process, which the server has become."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """All of it at once, as the end of a machine would."""
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def end(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGINT)
        self.wait_until_gone()

    def wait_until_gone(self, limit_s: float = 30.0) -> list[int]:
        """The processes that are left after that time, which are then killed."""
        deadline = time.monotonic() + limit_s
        while (left := self.alive()) and time.monotonic() < deadline:
            self.process.poll()
            time.sleep(0.05)
        self.kill()
        return left

    def alive(self) -> list[int]:
        return [p.pid for p in psutil.process_iter() if self._is_running(p)]

    def _is_running(self, process: psutil.Process) -> bool:
        try:
            is_ours = os.getsid(process.pid) == self.process.pid
            return is_ours and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False


def start(plan: Path, url: str, *options: str, **environment: str) -> VllmServer:
    """Start a server of the plan; it is not up yet."""
    log = plan.with_name(f"server_{url.rpartition(':')[2]}.log")
    with log.open("w") as out:
        process = subprocess.Popen(
            (*SERVE, str(plan), "--url", url, *options),
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **ENVIRONMENT, **environment},
        )  # fmt: skip
    return VllmServer(plan, url, log, process)
