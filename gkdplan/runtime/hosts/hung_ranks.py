"""Ranks of this host that do not end when another one failed.

torch's launcher waits for the ranks in another thread at the same time. Whoever asks
multiprocessing whether a process has ended may take its exit status from the one who waits for it,
who then has none; so the kernel is asked instead, which leaves the status where it is.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import process
from multiprocessing.process import BaseProcess

GRACE_S = 3.0
"""A rank that can hear torch's launcher ends within one second. One that was stopped or waits in
the kernel cannot, and the launcher would give it 30."""
LOOK_EVERY_S = 0.2


@contextmanager
def killed_soon() -> Iterator[None]:
    """While entered, what is left of this process's ranks `GRACE_S` after one failed is killed."""
    done, others = threading.Event(), _children()
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
        ranks |= _children() - others
        if any(exit_status_of(rank) for rank in ranks):
            _kill_after(time.monotonic() + GRACE_S, ranks)
            return


def _kill_after(deadline: float, ranks: set[BaseProcess]) -> None:
    def running() -> list[BaseProcess]:
        return [rank for rank in ranks if exit_status_of(rank) is None]

    while running() and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    for rank in running():
        rank.kill()


def _children() -> set[BaseProcess]:
    """`multiprocessing.active_children` without its question whether they have ended."""
    return set(process._children)  # type: ignore[attr-defined]


def exit_status_of(rank: BaseProcess) -> int | None:
    """Exit code or signal, which stays there to be waited for; None while the process runs."""
    assert rank.pid is not None, "a child of multiprocessing has been started"
    try:
        ended = os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # someone has waited for it, or it is a child of a fork server
        return rank.exitcode
    return None if ended is None else ended.si_status
