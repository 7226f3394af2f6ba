"""Two hosts of two ranks, which Slurm would have started: they train what one host does, and what
cuts one off ends both."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home, make_home_for_vllm, plan_text
from two_hosts import Tasks, two_hosts, why_not

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import RunDirectory, read_metrics

TIMEOUT_S = 10
NUM_STEPS = 400
CHANGES = {
    "tensor": 2,
    "lmbda": 0.3,
    "save_interval": 3,
    "held_out": "[]",
    "steps": NUM_STEPS,
}
CLUSTER = f"collective_timeout_s = {TIMEOUT_S}\njoin_timeout_s = 120"
LAST = 9

pytestmark = [
    pytest.mark.grid,
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@dataclass(frozen=True)
class Story:
    cut_at: int
    """The step whose checkpoint was there when the cable was cut."""
    cut: list[tuple[int, str, str]]
    took_s: float
    logs: dict[str, str]
    refused: list[tuple[int, str, str]]
    stopped: list[tuple[int, str, str]]
    place: Path


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    """A run whose second host is cut off, an attempt with another plan on that host, and one that
    goes on until a scheduler's signal reaches one rank."""
    place = tmp_path_factory.mktemp("nodes")
    home = make_home(place / "home")
    text = plan_text(home, "run", devices=2, cluster=f"num_nodes = 2\n{CLUSTER}", **CHANGES)
    (place / "plan.toml").write_text(text)
    directory = RunDirectory(place / "run")
    with two_hosts() as hosts:
        shared = dict.fromkeys(hosts, place)
        with Tasks(shared) as tasks:
            cut_at = _wait_until_saved(directory, tasks, 3)
            hosts[1].cut_off()
            began_s = time.monotonic()
            cut = tasks.end(limit_s=90)
            took_s = time.monotonic() - began_s
        hosts[1].join()
        logs = {path.name: path.read_text() for path in sorted((place / "run/logs").iterdir())}
        other = place / "other"
        other.mkdir()
        (other / "plan.toml").write_text(text.replace("lr = 1e-2", "lr = 1e-3"))
        with Tasks(dict(zip(hosts, (place, other), strict=True))) as tasks:
            refused = tasks.end(limit_s=120)
        with Tasks(shared) as tasks:
            _wait_until_saved(directory, tasks, LAST)
            tasks.processes[3].terminate()
            stopped = tasks.end(limit_s=90)
    return Story(cut_at, cut, took_s, logs, refused, stopped, place)


def _wait_until_saved(directory: RunDirectory, tasks: Tasks, step: int) -> int:
    while max(directory.saved_steps(), default=0) < step:
        ended = [process for process in tasks.processes if process.poll() is not None]
        assert not ended, ended[0].communicate()[1]
        time.sleep(0.05)
    return max(directory.saved_steps())


def test_a_host_that_is_cut_off_is_named_by_the_other_within_the_timeout(story):
    """The limit of the collective, 3 s to hear who is there, as long until all know, and what a
    busy machine takes."""
    assert [code for code, *_ in story.cut] == [4, 4, 4, 4], story.cut
    said = " ".join("".join(err for _, _, err in story.cut[:2]).split())
    assert re.search(
        r"error\[GK537\]: ranks 2, 3 on host-b do not answer; "
        r"rank [01] waited in the \w+ phase of step \d+",
        said,
    ), said
    assert said.count("GK537") == 1, "one rank says it for all of its host"
    assert "Traceback" not in said
    assert story.took_s < TIMEOUT_S + 20


def test_the_host_that_was_cut_off_says_whom_it_does_not_reach(story):
    said = " ".join("".join(err for _, _, err in story.cut[2:]).split())
    assert "error[GK537]: host-a, the host of rank 0, does not answer host-b" in said
    assert said.count("GK537") == 1


def test_each_host_has_a_log_of_its_own(story):
    assert list(story.logs) == ["node_0.log", "node_1.log"]
    assert "on host-a goes on after step 0" in story.logs["node_0.log"]
    assert "on host-b goes on after step 0" in story.logs["node_1.log"]
    assert "ranks 2, 3 on host-b do not answer" in story.logs["node_0.log"]


def test_a_host_with_another_plan_is_refused_with_the_difference(story):
    assert [code for code, *_ in story.refused] == [1, 1, 1, 1], story.refused
    said = " ".join(story.refused[0][2].split())
    assert "error[GK583]: host-b has another plan than host-a, the host of rank 0" in said
    assert "optimizer.lr: 0.01 there, 0.001 here" in said
    assert all("GK583" not in err for _, _, err in story.refused[1:])
    assert not (story.place / "other/run").exists()


def test_going_on_after_the_cut_trains_what_one_host_trains(story):
    """To the last bit: losses of every step, and the saved student."""
    assert [code for code, *_ in story.stopped] == [4, 4, 4, 4], story.stopped
    assert "error[GK533]: the run was stopped by" in story.stopped[0][2]
    run = RunDirectory(story.place / "run")
    alone = compile_tiny(story.place / "home", story.place / "one", devices=4, **CHANGES)
    run_on_ranks(_run_some_steps, 4, encode(alone))
    ours, theirs = (read_metrics(path) for path in (run.metrics, story.place / "one/metrics.jsonl"))
    assert [line["step"] for line in ours] == list(range(1, len(ours) + 1))
    assert [line["loss"] for line in ours[:LAST]] == [line["loss"] for line in theirs]
    student = f"checkpoints/step_{LAST}/student/model.safetensors"
    assert (run.path / student).read_bytes() == (story.place / "one" / student).read_bytes()


@pytest.mark.parametrize("tensor", [1, 2])
def test_engines_on_two_hosts_sample_what_they_do_on_one(tensor: int, tmp_path: Path):
    """vLLM inside the ranks, an engine on each and on both of a host."""
    engine = f'engine = "vllm"\ngpu_memory_utilization = 0.004\ntensor = {tensor}'
    changes = {"tensor": 2, "lmbda": 1.0, "steps": 3, "generation": engine}
    home = make_home_for_vllm(tmp_path / "home")
    text = plan_text(home, "run", devices=2, cluster=f"num_nodes = 2\n{CLUSTER}", **changes)
    (tmp_path / "plan.toml").write_text(text)
    with two_hosts() as hosts, Tasks(dict.fromkeys(hosts, tmp_path)) as tasks:
        ended = tasks.end(limit_s=240)
    assert [code for code, *_ in ended] == [0, 0, 0, 0], ended
    alone = compile_tiny(home, tmp_path / "one", devices=4, **changes)
    run_on_ranks(_run, 4, encode(alone), timeout_s=240, only_once=True)
    ours, theirs = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "one")
    assert ours.completions.read_bytes() == theirs.completions.read_bytes()
    losses = [
        [line["loss"] for line in read_metrics(directory.metrics) if "loss" in line]
        for directory in (ours, theirs)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def _run(lock: str) -> None:
    Executor(open_silently(lock)).run(0)


def _run_some_steps(lock: str) -> None:
    session = open_silently(lock)
    executor = Executor(session)
    for step in range(1, LAST + 1):
        executor._run_step(step)
    session.metrics.close()
