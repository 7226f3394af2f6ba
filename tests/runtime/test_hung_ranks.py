"""What watches the ranks leaves their exit status to the launcher, and ends those that hang."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

from gkdplan.runtime.hosts.hung_ranks import GRACE_S, exit_status_of, killed_soon

WITHOUT_TAKING = os.WEXITED | os.WNOHANG | os.WNOWAIT


@pytest.mark.parametrize("status", [0, 3])
def test_a_status_stays_until_it_is_waited_for(status):
    with killed_soon():
        rank = multiprocessing.get_context("fork").Process(target=sys.exit, args=(status,))
        rank.start()
        ended = os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOWAIT)
        time.sleep(1.0)
        assert exit_status_of(rank) == status
        assert os.waitid(os.P_PID, rank.pid, WITHOUT_TAKING) == ended
        rank.join()
    assert rank.exitcode == status
    assert exit_status_of(rank) == status


def test_a_rank_that_hangs_is_killed_soon_after_another_failed():
    context = multiprocessing.get_context("fork")
    with killed_soon():
        hung = context.Process(target=signal.pause)
        hung.start()
        assert exit_status_of(hung) is None
        begun = time.monotonic()
        failed = context.Process(target=sys.exit, args=(1,))
        failed.start()
        hung.join(timeout=4 * GRACE_S)
        assert GRACE_S <= time.monotonic() - begun < 3 * GRACE_S
    assert hung.exitcode == -signal.SIGKILL
    failed.join()
