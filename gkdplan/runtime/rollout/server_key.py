"""A server's key on every route: vLLM asks for it below /v1, /v2, /inference and /cohere only, and
not where weights are replaced."""

import hmac
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

API_KEY = "VLLM_API_KEY"
OPEN_PATHS = ("/health",)
"""Whether a server is up is no secret."""

Asgi = Callable[..., Awaitable[None]]


class KeyOnEveryRoute:
    """ASGI middleware, named as `--middleware`: 401 without the key of $VLLM_API_KEY.

    Raises RuntimeError as the server starts, where there is no key to ask for.
    """

    def __init__(self, app: Asgi) -> None:
        key = os.environ.get(API_KEY)
        if not key:
            raise RuntimeError(f"${API_KEY} names no key")
        self.app = app
        self.expected = f"Bearer {key}".encode()

    async def __call__(self, scope: dict[str, Any], receive: Asgi, send: Asgi) -> None:
        if scope["type"] in ("http", "websocket") and not self._may_pass(scope):
            await _refuse(scope, send)
        else:
            await self.app(scope, receive, send)

    def _may_pass(self, scope: dict[str, Any]) -> bool:
        if scope["path"] in OPEN_PATHS:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, self.expected)


async def _refuse(scope: dict[str, Any], send: Asgi) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    body = json.dumps({"error": "Unauthorized"}).encode()
    await send({"type": "http.response.body", "body": body})
