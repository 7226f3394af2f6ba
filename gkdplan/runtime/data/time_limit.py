"""A limit on what is not ours and may never end."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeIsUpError(Exception):
    """The block was given so much time, and wants more."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeIsUpError in this block after `seconds` in which the process computed.

    Time of waiting does not count, so that a busy machine changes nothing. Only for the main
    thread; a single call into C is let finish.
    """
    handler = signal.signal(signal.SIGVTALRM, _time_is_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)


def _time_is_up(number: int, frame: FrameType | None) -> None:
    raise TimeIsUpError
