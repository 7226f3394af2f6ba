"""Which rank the others wait for in vain, and what is said; test_faults.py stops real runs."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks

from gkdplan.runtime.hosts.lost_ranks import Answer, master_is_gone, named, who_is_lost
from gkdplan.runtime.hosts.roll_call import RollCall, is_of_another_rank
from gkdplan.runtime.phases import Position

HOSTS = ("a", "a", "b", "b")
AT = Position(7, "teacher")
FAILURE = RuntimeError("[x/gloo/transport/tcp/y.cc:1] Timed out. This is typically caused by rain")
WAITING = Answer(7, "teacher", "c10d.py:1, in all_reduce", is_waiting=True)
ELSEWHERE = Answer(7, "generate", "rows.py:33, in read", is_waiting=False)


def said(answers: dict[int, Answer]) -> tuple[str, tuple[str, ...]]:
    (found,) = who_is_lost(answers, HOSTS, 0, AT, 20.0, FAILURE)
    assert found.code == "GK537"
    return found.message, found.notes


def test_a_host_that_is_silent_is_named_with_its_ranks_and_the_phase():
    message, notes = said({0: WAITING, 1: WAITING})
    waited = "rank 0 waited in the teacher phase of step 7"
    assert message == f"ranks 2, 3 on b do not answer; {waited}"
    assert notes == ("`cluster.collective_timeout_s` is 20", "Timed out")


def test_of_ranks_that_all_answer_those_that_are_elsewhere_are_named():
    message, notes = said({0: WAITING, 1: WAITING, 2: ELSEWHERE, 3: WAITING})
    assert message.startswith("rank 2 on b did not take part in what rank 0 waited for in the ")
    assert "rank 2: generate phase of step 7, rows.py:33, in read" in notes


def test_a_rank_that_cannot_ask_names_the_host_that_it_would_ask():
    (found,) = master_is_gone(HOSTS, 2, AT, FAILURE)
    assert found.message.startswith("a, the host of rank 0, does not answer b; rank 2 waited in")


def test_ranks_are_named_by_their_hosts():
    assert named([0], HOSTS) == "rank 0 on a"
    assert named([3, 1], HOSTS) == "rank 1 on a and rank 3 on b"
    assert named(range(3), "aaa") == "ranks 0-2 on a"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("limits_s", [(2.0, 8.0), (2.0, 2.0)])
def test_a_rank_that_is_busy_elsewhere_is_found_and_every_rank_hears_the_verdict(limits_s):
    """The other one that waits is still in the collective, or has given it up too."""
    run_on_ranks(_wait_for_a_busy_rank, 3, limits_s, only_once=True)


def _wait_for_a_busy_rank(limits_s: tuple[float, float]) -> None:
    rank, heard = dist.get_rank(), []
    limit_s = limits_s[min(rank, 1)]
    group = dist.new_group(timeout=timedelta(seconds=limit_s))
    store = dist.distributed_c10d._get_default_store()
    position = Position(7, "generate" if rank == 2 else "teacher")
    hosts = ("here", "here", "there")
    with RollCall(store, rank, hosts, position, limit_s, heard.append) as roll_call:
        if rank == 2:
            _be_busy(heard)
        else:
            with pytest.raises(RuntimeError) as failed:
                dist.all_reduce(torch.ones(1), group=group)
            assert is_of_another_rank(failed.value)
            heard.append(roll_call.verdict(failed.value))
        (found,) = heard[-1]
        assert found.message.startswith("rank 2 on there did not take part in what rank ")
        assert any("generate phase of step 7" in n and "_be_busy" in n for n in found.notes)


def _be_busy(heard: list) -> None:
    deadline = time.monotonic() + 60
    while not heard and time.monotonic() < deadline:
        time.sleep(0.05)
