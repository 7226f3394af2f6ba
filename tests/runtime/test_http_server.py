"""What a server may do on the wire, and what is made of it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gkdplan.runtime.http_server import HttpServer, ServerGoneError, ServerRefusedError

OK, HEAD = b"HTTP/1.1 200 OK\r\n", b"Content-Type: application/json\r\n"


@contextmanager
def answering(words: bytes) -> Iterator[HttpServer]:
    """A server that sends these bytes to whoever asks, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(words)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield HttpServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(timeout=10)


def answered(words: bytes) -> object:
    with answering(words) as server:
        return server.post("/v1/completions", {"prompt": [1]}, timeout_s=5.0)


def test_json_is_read_and_an_empty_answer_is_none():
    assert answered(OK + HEAD + b'Content-Length: 8\r\n\r\n{"a": 1}') == {"a": 1}
    assert answered(OK + b"Content-Length: 0\r\n\r\n") is None


@pytest.mark.parametrize(
    "words",
    [
        b"",
        OK + HEAD + b'Content-Length: 80\r\n\r\n{"a": 1',
        OK + HEAD + b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n',
        OK + b"Content-Length: 13\r\n\r\n<html></html>",
    ],
    ids=["nothing", "half a body", "half of its chunks", "a page"],
)
def test_an_answer_that_breaks_off_is_none(words):
    with pytest.raises(ServerGoneError, match="127"):
        answered(words)


def test_an_error_is_told_with_its_words():
    with pytest.raises(ServerRefusedError) as refusal:
        answered(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 8\r\n\r\ntoo long")
    assert (refusal.value.status, refusal.value.words) == (400, "too long")


def test_nobody_is_waited_for_longer_than_asked():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HttpServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ServerGoneError):
            server.get("/v1/models", timeout_s=0.2)
