"""Ranks of this host that do not end when another one failed."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

GRACE_S = 3.0
"""A rank that can hear torch's launcher ends within one second. One that was stopped or waits in
the kernel cannot, and the launcher would give it 30."""
LOOK_EVERY_S = 0.2


@contextmanager
def killed_soon() -> Iterator[None]:
    """While entered, what is left of this process's ranks `GRACE_S` after one failed is killed."""
    done, others = threading.Event(), set(multiprocessing.active_children())
    threading.Thread(
        target=_watch, args=(done, others), name="ends hung ranks", daemon=True
    ).start()
    try:
        yield
    finally:
        done.set()


def _watch(done: threading.Event, others: set[BaseProcess]) -> None:
    """`others` are children that were there before, and are none of these ranks."""
    ranks: set[BaseProcess] = set()
    while not done.wait(LOOK_EVERY_S):
        ranks |= set(multiprocessing.active_children()) - others
        if any(rank.exitcode for rank in ranks):
            _kill_after(time.monotonic() + GRACE_S, ranks)
            return


def _kill_after(deadline: float, ranks: set[BaseProcess]) -> None:
    while any(rank.is_alive() for rank in ranks) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    for rank in ranks:
        if rank.is_alive():
            rank.kill()
