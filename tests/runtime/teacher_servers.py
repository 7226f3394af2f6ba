"""A real server of vLLM with a teacher, and gates before it that count and can be shut."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

START_LIMIT_S, END_LIMIT_S = 240.0, 20.0
"""It is up after 10 s alone; on a loaded machine it takes several times as long."""
KEY = os.environ["VLLM_API_KEY"]
SERVE = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
LIMITS = {
    "dtype": "float32",
    "max-model-len": "96",
    "max-logprobs": "24",
    "max-num-seqs": "16",
    "kv-cache-memory-bytes": str(16 << 20),
}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_API_KEY": KEY,
    "TRITON_INTERPRET": "0",
}


@contextmanager
def served(model: Path, *more: str) -> Iterator[str]:
    """The address of a server of `model`, with `more` options, which ends with the block, whatever
    happens in it."""
    with running(model, free_port(), *more) as (url, _):
        yield url


@contextmanager
def running(model: Path, port: int, *more: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The same at a port of its own, with its process, the first of its session."""
    options = [part for name, value in LIMITS.items() for part in (f"--{name}", value)]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    log = model.with_name(f"server_{port}.log")
    with log.open("w") as out:
        process = subprocess.Popen(
            (*SERVE, "--model", str(model), *where, "--enforce-eager", *options, *more),
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
    try:
        yield _wait_until_up(f"http://127.0.0.1:{port}", process, log), process
    finally:
        _end(process)


def _wait_until_up(url: str, process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return url
        except requests.RequestException:
            time.sleep(0.2)
    raise TimeoutError(log.read_text()[-4000:])


def _end(process: subprocess.Popen) -> None:
    """Ask it to end, then end all of its session."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=END_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=END_LIMIT_S)


def kill(process: subprocess.Popen) -> None:
    """All of a server's session at once, as the end of its machine would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=END_LIMIT_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gate:
    """An address of its own before a real server, which keeps what passes.

    With `shuts_after` it lets as many scored rows through and is then gone, as a server that was
    killed: nothing listens at its address any more, and open connections break off.
    """

    def __init__(self, target: str, port: int = 0, shuts_after: int | None = None) -> None:
        self.bodies: list[dict] = []
        self.num_left = shuts_after
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler(target))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def scored(self) -> list[list[int]]:
        """The rows that were scored, as tokens; what checks ask is shorter."""
        asked = [body for body in self.bodies if "prompt_logprobs" in body]
        return [body["prompt"] for body in asked if len(body["prompt"]) > 2]

    def shut(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _lets_through(self, body: dict) -> bool:
        with self._lock:
            self.bodies.append(body)
            if self.num_left is None or len(body.get("prompt", ())) <= 2:
                return True
            self.num_left -= 1
            if self.num_left == -1:
                threading.Thread(target=self.shut, daemon=True).start()
            return self.num_left >= 0

    def _handler(self, target: str) -> type[BaseHTTPRequestHandler]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(requests.get(target + self.path, headers=self._headers(), timeout=60))

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                if gate._lets_through(json.loads(text)):
                    headers = self._headers()
                    self._answer(
                        requests.post(target + self.path, data=text, headers=headers, timeout=60)
                    )

            def _headers(self) -> dict[str, str]:
                kept = ("Authorization", "Content-Type")
                return {name: self.headers[name] for name in kept if name in self.headers}

            def _answer(self, answer: requests.Response) -> None:
                self.send_response(answer.status_code)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
