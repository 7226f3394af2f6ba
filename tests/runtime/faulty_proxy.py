"""A tiny proxy before a real server, for what no real server can be made to do: it spoils answers,
or says no."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

Spoil = Callable[[str, Any], Any]
"""From a path and the JSON of the real answer to the JSON that is sent on."""


@contextmanager
def proxy(target: str, spoil: Spoil) -> Iterator[str]:
    """The address of a proxy before `target`, which ends with the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass_on("GET", None)

        def do_POST(self) -> None:
            self._pass_on("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _pass_on(self, method: str, body: bytes | None) -> None:
            kept = ("Authorization", "Content-Type")
            headers = {name: self.headers[name] for name in kept if name in self.headers}
            answer = requests.request(
                method, target + self.path, data=body, headers=headers, timeout=60
            )
            content = answer.content
            if answer.ok and content:
                content = json.dumps(spoil(self.path, answer.json())).encode()
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
