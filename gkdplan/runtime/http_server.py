"""An OpenAI-compatible server of vLLM, asked over HTTP: plain JSON in, plain JSON out."""

import os
from dataclasses import dataclass
from typing import Any

import requests

API_KEY = "VLLM_API_KEY"
"""The environment variable that vLLM's own server reads its key from."""


class ServerGoneError(Exception):
    """Nothing answered: the address, and what the connection said."""


class ServerRefusedError(Exception):
    """The server answered with an error: its status and its words."""

    def __init__(self, url: str, status: int, words: str) -> None:
        super().__init__(f"{url} answered {status}: {words}")
        self.status = status
        self.words = words


@dataclass(frozen=True, slots=True)
class HttpServer:
    """One address, such as "http://127.0.0.1:8000", and the key that it wants."""

    url: str
    api_key: str | None = None

    def get(self, path: str, timeout_s: float) -> Any:
        """The JSON behind `path`, None where the body is empty.

        Raises ServerGoneError where nothing answers within `timeout_s`, or breaks off, or speaks
        another language; ServerRefusedError where the answer is an error.
        """
        return self._ask("GET", path, None, timeout_s)

    def post(self, path: str, body: dict[str, Any], timeout_s: float) -> Any:
        """The JSON that answers `body`; raises as `get` does."""
        return self._ask("POST", path, body, timeout_s)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> Any:
        url = self.url.rstrip("/") + path
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            answer = requests.request(
                method, url, json=body, headers=headers, timeout=timeout_s, allow_redirects=False
            )
        except requests.RequestException as failure:
            raise ServerGoneError(f"{url}: {failure}") from failure
        if answer.status_code != requests.codes.ok:
            raise ServerRefusedError(url, answer.status_code, answer.text[:500])
        try:
            return answer.json() if answer.content else None
        except requests.JSONDecodeError as failure:
            raise ServerGoneError(f"{url} answers, but not in JSON: {failure}") from failure


def key_from_environment() -> str | None:
    """The key that this process's environment names."""
    return os.environ.get(API_KEY) or None
