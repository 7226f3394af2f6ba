"""Where a rank stands, by its environment, and how ranks meet: every mistake ends with a help."""

import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.codec import encode
from gkdplan.runplan.layout import Layout
from gkdplan.runtime.hosts import joining, meeting
from gkdplan.runtime.hosts.meeting import Hello, hear_hellos, open_store, refusals, say_hello
from gkdplan.runtime.hosts.network import interface_towards
from gkdplan.runtime.hosts.placement import Placement, placement_of, speaks
from gkdplan.runtime.saved.run_directory import RunDirectory

TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "head",
    "MASTER_PORT": "29511",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "MASTER_ADDR": "head",
}


@pytest.fixture
def layout(run_plan) -> Layout:
    return replace(run_plan.layout, num_nodes=2, devices_per_node=2, world_size=4)


def refused(environment: dict[str, str], layout: Layout) -> Diagnostic:
    with pytest.raises(UserError) as refusal:
        placement_of(environment, layout)
    (found,) = refusal.value.diagnostics
    assert found.help
    return found


def test_torchrun_says_where_a_rank_stands(layout):
    placement = Placement(3, 1, 4, "head", 29511, num_restarts=2, has_store=True)
    assert placement_of(TORCHRUN, layout) == placement


def test_slurm_says_it_and_the_plan_has_the_port(layout):
    assert placement_of(SLURM, layout) == Placement(3, 1, 4, "head", 29500)


def test_a_process_that_nobody_placed_starts_the_ranks_of_its_host(run_plan):
    one_task = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert placement_of({}, run_plan.layout) is None
    assert placement_of(one_task, run_plan.layout) is None


def test_one_rank_speaks_for_all_and_one_for_its_host():
    assert speaks({})
    assert not speaks(TORCHRUN)
    assert not speaks(SLURM | {"SLURM_LOCALID": "1"}, "LOCAL_RANK")
    assert speaks(SLURM | {"SLURM_LOCALID": "0"}, "LOCAL_RANK")


@pytest.mark.parametrize(
    ("environment", "code", "words"),
    [
        ({}, "GK581", "nothing says which of them this one is"),
        ({**SLURM, "MASTER_ADDR": ""}, "GK581", "`MASTER_ADDR` is not set"),
        ({**TORCHRUN, "MASTER_PORT": "99999"}, "GK581", "`MASTER_PORT` is '99999'"),
        ({**TORCHRUN, "LOCAL_RANK": "x"}, "GK581", "`LOCAL_RANK` is 'x'"),
        ({**TORCHRUN, "WORLD_SIZE": "8"}, "GK580", "8 ranks were started, and the plan has 4"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "2"}, "GK580", "2 ranks were started"),
        ({**SLURM, "SLURM_LOCALID": "0"}, "GK580", "rank 3 is number 0 of its host"),
    ],
)
def test_a_wrong_environment_is_refused_by_name(environment, code, words, layout):
    found = refused(environment, layout)
    assert found.code == code
    assert words in found.message


def test_the_help_is_what_to_type_for_this_plan(layout):
    by_torchrun = " ".join(refused({**TORCHRUN, "WORLD_SIZE": "8"}, layout).help)
    assert "torchrun --nnodes 2 --nproc-per-node 2" in by_torchrun
    by_slurm = " ".join(refused({**SLURM, "SLURM_STEP_NUM_TASKS": "2"}, layout).help)
    assert "srun --nodes 2 --ntasks-per-node 2 --distribution block" in by_slurm


def test_a_master_that_nobody_is_at_is_given_up_in_time():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(UserError) as refusal:
        open_store(Placement(1, 1, 2, "127.0.0.1", port), join_timeout_s=1.0)
    (found,) = refusal.value.diagnostics
    assert found.code == "GK582"
    assert f"did not reach rank 0 at 127.0.0.1:{port} within 1 s" in found.message


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_this_hosts_is_refused(host):
    with pytest.raises(UserError) as refusal:
        open_store(Placement(0, 0, 2, host, 29512), join_timeout_s=5.0)
    (found,) = refusal.value.diagnostics
    assert found.code == "GK582"
    assert f"rank 0 cannot listen at {host}:29512" in found.message


def test_the_store_listens_at_the_masters_address_only():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = open_store(Placement(0, 0, 1, "127.0.0.1", port), join_timeout_s=5.0)
    store.set("a", "b")
    with socket.socket() as other:
        other.settimeout(2)
        assert other.connect_ex(("127.0.0.2", port)) != 0
    with socket.socket() as own:
        own.settimeout(2)
        assert own.connect_ex(("127.0.0.1", port)) == 0


def hello(rank: int, **changes) -> Hello:
    told = {
        "process": f"p{rank}",
        "host": f"host-{rank // 2}",
        "plan": ("a", "b"),
        "versions": {"torch": "1"},
    }
    return Hello(rank, **{**told, **changes})


def test_ranks_that_do_not_come_are_named_by_their_nodes():
    store = dist.HashStore()
    for rank in (0, 1):
        say_hello(store, hello(rank))
    with pytest.raises(UserError) as refusal:
        hear_hellos(store, 4, per_node=2, limit_s=0.1)
    (found,) = refusal.value.diagnostics
    assert found.message == "2 of 4 ranks did not come within 0.1 s: 2, 3"
    assert found.label == "of node 1"


def test_ranks_that_come_are_heard_as_they_spoke():
    store = dist.HashStore()
    said = [hello(0), hello(1, differences=("x: 1 there, 2 here",))]
    for one in said:
        say_hello(store, one)
    heard = hear_hellos(store, 2, per_node=2, limit_s=5.0)
    assert [(h.rank, h.plan, tuple(h.differences)) for h in heard] == [
        (h.rank, h.plan, h.differences) for h in said
    ]


def test_hosts_that_would_not_run_the_same_are_refused_each_reason_once():
    lack = error("GK527", "an engine is missing", help=("install it",))
    other = {"versions": {"torch": "2"}, "lacks": ({**vars_of(lack)},)}
    found = refusals([hello(0), hello(1), hello(2, **other), hello(3, plan=("a", "c"))])
    assert [f.code for f in found] == ["GK527", "GK583", "GK583"]
    assert found[0].notes == ("seen on host-1",)
    assert found[1].message == "host-1 has torch 2, and host-0 1"
    assert found[1].help == ("install torch 1 on every host",)
    assert found[2].message.startswith("host-1 has another plan than host-0")


def vars_of(found: Diagnostic) -> dict:
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_run_directory_that_a_host_does_not_see_is_refused(is_shared, tmp_path, monkeypatch):
    monkeypatch.setattr(joining, "SHOWN_WITHIN_S", 10.0 if is_shared else 0.5)
    here, store = RunDirectory(tmp_path / "here"), dist.HashStore()
    here.path.mkdir()
    mark = (here.path if is_shared else tmp_path / "there") / joining.SEEN
    done = threading.Event()
    other = threading.Thread(target=_look, args=(store, mark, done), daemon=True)
    other.start()
    hosts = ["host-a", "host-a", "host-b", "host-b"]
    if is_shared:
        joining._be_seen_by_all(store, 2, here, hosts)
    else:
        with pytest.raises(UserError) as refusal:
            joining._be_seen_by_all(store, 2, here, hosts)
        (found,) = refusal.value.diagnostics
        assert found.code == "GK584"
        assert "host-b does not see the run directory" in found.message
    assert list(here.path.iterdir()) == []
    done.set()
    other.join(10)


def _look(store, mark: Path, done: threading.Event) -> None:
    """As the first rank of the second host does."""
    while not done.wait(0.02):
        if joining._sees(store, mark):
            meeting.say(store, "sees/2", True)
            return


def test_what_rank_0_decided_for_ranks_of_an_earlier_start_is_not_taken(run_plan, tmp_path):
    """torchrun's store still holds it when it starts the ranks anew."""
    timeouts = replace(run_plan.layout.rendezvous, join_timeout_s=10.0)
    run_plan = replace(run_plan, layout=replace(run_plan.layout, rendezvous=timeouts))
    shared, started = dist.HashStore(), []
    earlier = {"step": 7, "hosts": ["a", "b"], "skipped": [], "for": ["p0", "p1"]}
    _attempt(shared, run_plan, "first", earlier)
    placement, directory = Placement(1, 1, 2, "a", 1, 1), RunDirectory(tmp_path)

    def follow() -> None:
        started.append(joining._follow(shared, run_plan, placement, directory, "p1 again")[1])

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    thread.join(0.5)
    assert not started
    _attempt(shared, run_plan, "second", {**earlier, "step": 9, "for": ["p0 again", "p1 again"]})
    thread.join(10)
    assert [start.step for start in started] == [9]


def _attempt(shared, run_plan, name: str, start: dict) -> None:
    store = meeting.of_attempt(shared, name)
    meeting.say(store, "plan", encode(run_plan))
    meeting.say(store, "seals", joining._seals(run_plan))
    meeting.say(store, "start", start)
    meeting.say(shared, joining.ATTEMPT, name)


def test_the_interface_of_the_loopback_leads_to_the_loopback():
    assert interface_towards("127.0.0.1", 29500) == "lo"
