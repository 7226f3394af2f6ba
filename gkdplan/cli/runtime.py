"""The door to the runtime, opened only by the commands that run something."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

from gkdplan.diagnostics import UserError, error

INTERRUPTED = 130


def runtime(module: str) -> Any:
    """A module of the runtime, imported only now: it brings torch."""
    try:
        with _ending_at_once_on_ctrl_c():
            return import_module(f"gkdplan.runtime.{module}")
    except ModuleNotFoundError as missing:
        raise UserError(
            error(
                "GK507",
                f"running needs `{missing.name}`, which is not installed",
                help=("install it with `pip install 'gkdplan[run]'`",),
            )
        ) from missing


@contextmanager
def _ending_at_once_on_ctrl_c() -> Iterator[None]:
    """A library may swallow a KeyboardInterrupt that is raised as it is imported, or die of it."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
