"""The keys of servers that `gkdplan serve` started on this machine, kept for `gkdplan run`."""

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from gkdplan.runtime.http_server import key_from_environment


def key_of(url: str) -> str | None:
    """The key of $VLLM_API_KEY, else the one that is kept for the address."""
    return key_from_environment() or _kept(url)


def keep_key(url: str) -> str:
    """The key of the address: the environment's, which is kept nowhere, or the one that is kept, or
    a new one in a file that only this user reads.

    Raises OSError where the file cannot be written.
    """
    if (key := key_of(url)) is not None:
        return key
    key, path = secrets.token_urlsafe(32), key_file(url)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return key


def key_file(url: str) -> Path:
    """Where the key of an address is kept: below $XDG_STATE_HOME, or ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    parts = urlsplit(url)
    return (
        Path(state) / "gkdplan" / "server-keys" / f"{parts.hostname}_{parts.port or parts.scheme}"
    )


def _kept(url: str) -> str | None:
    path = key_file(url)
    return path.read_text().strip() or None if path.is_file() else None
