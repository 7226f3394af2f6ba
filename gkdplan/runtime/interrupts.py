"""Signals of a launcher: Ctrl-C, which the terminal sends to every process of a run and on which
the launcher alone acts, and a scheduler's, which ask a run to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from types import FrameType

from torch.distributed.elastic.multiprocessing.api import SignalException

from gkdplan.runtime.stopping import SIGNALS as STOPPING
from gkdplan.runtime.stopping import StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def signals_of_torch(stop: StopRequest | None) -> str:
    """Those that torch's launcher handles itself, its `signals_to_handle`."""
    ours = (signal.SIGINT, *(STOPPING if stop is not None else ()))
    return ",".join(number.name for number in SIGNALS if number not in ours)


class Interrupted(SignalException):  # type: ignore[misc]  # torch has no types here
    """Ctrl-C; torch's launcher ends the ranks with SIGTERM, which needs nothing of them."""

    def __init__(self) -> None:
        super().__init__("interrupted", signal.SIGTERM)


@contextmanager
def own_signal_handlers(stop: StopRequest | None) -> Iterator[None]:
    """Ctrl-C raises Interrupted here and is blocked in ranks that start, up to
    `end_with_the_launcher`; so are the signals of `stopping`, the first of which is noted in `stop`
    where that is given.

    Ranks inherit the signal mask of the thread that starts them, and would raise from within their
    imports. Another thread takes the signal, and its handler still runs in this, the main one.
    Python's resource tracker, which would die of SIGUSR1, inherits the mask too; its start lifts
    the mask of SIGINT and SIGTERM. torch's launcher leaves handlers behind that raise: afterwards
    all are as they were.
    """
    stopping = () if stop is None else STOPPING
    handlers = {number: signal.getsignal(number) for number in {*SIGNALS, *stopping}}
    done = threading.Event()
    threading.Thread(target=done.wait, name="takes signals", daemon=True).start()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *stopping})
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *stopping})
    if stop is not None:
        for number in STOPPING:
            signal.signal(number, partial(_ask_to_stop, stop))
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


def _ask_to_stop(stop: StopRequest, number: int, frame: FrameType | None) -> None:
    if stop.is_made:
        raise SignalException(f"{signal.Signals(number).name} came again", signal.SIGTERM)
    stop.ask(number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted
