"""What a process does to the world outside itself, as Python's audit events tell."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PLACES = {
    "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.rename": 2, "os.link": 2,
    "os.symlink": 2, "os.chmod": 1, "os.chown": 1, "shutil.rmtree": 1,
}  # fmt: skip
"""Events that change a file system, and how many of their arguments are places."""
ACTS = ("socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.exec", "os.fork",
        "os.posix_spawn", "pickle.find_class")  # fmt: skip

_watching: list[list[str]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes | os.PathLike) and flags & WRITES:
            _watching[-1].append(f"write {os.fsdecode(path)}")
    elif event in PLACES:
        places = [os.fsdecode(place) for place in arguments[: PLACES[event]] if place is not None]
        _watching[-1].append(f"write {' '.join(map(str, places))}")
    elif event in ACTS:
        _watching[-1].append(f"{event} {arguments}")


@contextlib.contextmanager
def deeds(allowed: Path | None = None) -> Iterator[list[str]]:
    """Collects every write outside `allowed`, every connection, every process and every unpickling
    of this block."""
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)
        inside = f"write {allowed}{os.sep}" if allowed else "write nowhere"
        seen[:] = [deed for deed in seen if not deed.startswith((inside, f"write {os.devnull}"))]


sys.addaudithook(_hear)
