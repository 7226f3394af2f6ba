"""Ctrl-C: the terminal sends it to every process of a run, and the launcher alone acts on it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

from torch.distributed.elastic.multiprocessing.api import SignalException

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SIGNALS_OF_TORCH = ",".join(number.name for number in SIGNALS if number is not signal.SIGINT)
"""Those that torch's launcher handles itself: its `signals_to_handle`."""


class Interrupted(SignalException):  # type: ignore[misc]  # torch has no types here
    """Ctrl-C; torch's launcher ends the ranks with SIGTERM, which needs nothing of them."""

    def __init__(self) -> None:
        super().__init__("interrupted", signal.SIGTERM)


@contextmanager
def own_signal_handlers() -> Iterator[None]:
    """Ctrl-C raises Interrupted here and is blocked in ranks that start, up to
    `end_with_the_launcher`.

    Ranks inherit the signal mask of the thread that starts them, and would raise from within their
    imports. Another thread takes the signal, and its handler still runs in this, the main one.
    Python's resource tracker runs before, as its start would lift the mask. torch's launcher leaves
    handlers behind that raise: afterwards all are as they were.
    """
    resource_tracker.ensure_running()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    done = threading.Event()
    threading.Thread(target=done.wait, name="takes Ctrl-C", daemon=True).start()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if handlers[signal.SIGINT] is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        done.set()


def end_with_the_launcher() -> None:
    """In a rank, once it is imported: SIGINT ends it at once and raises nothing in it. It is also
    what torch lets a rank receive when its launcher is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted
