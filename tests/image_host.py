"""A host of images on the loopback, and one that does what it should not."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers a path as its host was told to."""

    protocol_version = "HTTP/1.1"
    timeout = 20

    def do_GET(self) -> None:
        host = self.server.host
        host.asked.append(self.path)
        host.headers.append(dict(self.headers))
        try:
            host.answers.get(self.path.partition("?")[0], status(404))(self)
        except OSError:  # who asked has gone
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass

    def send(self, content: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)


class ImageHost:
    """`answers` are by path; `asked` are the paths of all requests, `headers` theirs."""

    def __init__(self, port: int) -> None:
        self.site = f"127.0.0.1:{port}"
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []

    def url(self, path: str) -> str:
        return f"http://{self.site}{path}"


class Server(ThreadingHTTPServer):
    """Of a host on a port of its own; keeps none of many waiting."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = ImageHost(self.server_address[1])


@contextmanager
def image_host() -> Iterator[ImageHost]:
    """Up until the block ends."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.host
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def image(content: bytes = PNG) -> Answer:
    return lambda handler: handler.send(content)


def status(code: int, content: bytes = b"") -> Answer:
    return lambda handler: handler.send(content, code)


def page(handler: Handler) -> None:
    handler.send(b"<html>not here</html>", Content_Type="text/html")


def packed(handler: Handler) -> None:
    handler.send(PNG, Content_Encoding="gzip")


def redirect(location: str, code: int = 302) -> Answer:
    return lambda handler: handler.send(b"", code, Location=location)


def no_redirect(handler: Handler) -> None:
    handler.send(b"", 302)


def endless(handler: Handler) -> None:
    """A body that says no length and has none."""
    handler.close_connection = True
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(PNG)
    while True:
        handler.wfile.write(bytes(2**16))


def understated(handler: Handler) -> None:
    """More than it says."""
    handler.send(PNG + bytes(2**20), Content_Length="48")
    handler.close_connection = True


def overstated(handler: Handler) -> None:
    """Less than it says."""
    handler.send(PNG, Content_Length="100")
    handler.close_connection = True


def silent(handler: Handler) -> None:
    """Begins, and says no more."""
    handler.send(PNG, Content_Length="100")
    time.sleep(2)
    handler.close_connection = True


def dripping(handler: Handler) -> None:
    """A byte of its headers now and then."""
    for _ in range(200):
        handler.wfile.write(b"H")
        handler.wfile.flush()
        time.sleep(0.02)


def after(failures: int, broken: Answer, whole: Answer) -> Answer:
    """Broken at first."""
    left = [failures]

    def answer(handler: Handler) -> None:
        left[0] -= 1
        (broken if left[0] >= 0 else whole)(handler)

    return answer
