"""A run that is stopped at any time: what it says, what it leaves, and that it goes on."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attempt import Attempt, Ending
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home, plan_text

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics

NUM_STEPS = 40
LAYOUTS = {"parallel": "pipeline = 2", "teacher": "[teacher.parallel]\ntensor = 2"}
SOURCES = {"lmbda": 0.2, "seq_kd": 0.2}
TIMEOUT_S = 20
TIMEOUT = {"cluster": f"collective_timeout_s = {TIMEOUT_S}"}
LENGTH = {"steps": NUM_STEPS, "save_interval": 3, "held_out": "[]"}
CHANGES = LAYOUTS | SOURCES | TIMEOUT | LENGTH

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def story(place) -> dict[str, Ending]:
    """One run of a student in stages and a teacher over tensor ranks, stopped in four ways, a
    second one while it starts, and the attempt that finishes it."""
    home = make_home(place / "home")
    (place / "plan.toml").write_text(plan_text(home, "run", devices=2, **CHANGES))
    first = Attempt(place)
    first.wait_until(first.directory.lock.exists)
    second = Attempt(place).end()
    endings = {"SIGTERM": _ending(first, STOPS["SIGTERM"])}
    endings |= {name: _ending(Attempt(place), STOPS[name]) for name in STOPS if name != "SIGTERM"}
    return endings | {"second": second, "finished": Attempt(place).end()}


@pytest.fixture(scope="module")
def rare(tmp_path_factory) -> dict[str, Ending]:
    """Such a run, stopped in the other ways."""
    place = tmp_path_factory.mktemp("rare")
    home = make_home(place / "home")
    (place / "plan.toml").write_text(plan_text(home, "run", devices=2, **CHANGES))
    return {name: _ending(Attempt(place), stop) for name, stop in RARE_STOPS.items()}


def _ending(attempt: Attempt, stop: Callable[[Attempt], None]) -> Ending:
    attempt.wait_for_a_checkpoint()
    stop(attempt)
    return attempt.end()


STOPS = {
    "SIGTERM": lambda attempt: attempt.process.terminate(),
    "Ctrl-C": lambda attempt: os.killpg(attempt.process.pid, signal.SIGINT),
    "killed rank": lambda attempt: os.kill(attempt.ranks()[1], signal.SIGKILL),
    "killed launcher": lambda attempt: attempt.process.kill(),
}
RARE_STOPS = {
    "SIGUSR1 to all": lambda attempt: os.killpg(attempt.process.pid, signal.SIGUSR1),
    "SIGTERM twice": lambda attempt: _terminate_twice(attempt),
    "stopped rank": lambda attempt: os.kill(attempt.ranks()[1], signal.SIGSTOP),
}


def _terminate_twice(attempt: Attempt) -> None:
    attempt.process.terminate()
    time.sleep(0.01)
    attempt.process.terminate()


def test_a_second_process_is_refused(story):
    assert story["second"].exit_code == 1
    assert "error[GK518]" in story["second"].err


def test_a_schedulers_signal_stops_all_and_says_where_it_goes_on(story):
    ending = story["SIGTERM"]
    assert ending.exit_code == 4
    assert "error[GK533]: the run was stopped by SIGTERM" in ending.err
    goes_on = f"it goes on after step {story['Ctrl-C'].first_step}"
    assert goes_on in " ".join(ending.err.split())
    assert "Traceback" not in ending.err


@pytest.mark.grid
def test_a_signal_to_every_process_saves_once(rare):
    ending = rare["SIGUSR1 to all"]
    assert ending.exit_code == 4
    assert "error[GK533]: the run was stopped by SIGUSR1" in ending.err
    assert "Traceback" not in ending.err


def test_ctrl_c_stops_all(story):
    ending = story["Ctrl-C"]
    assert ending.exit_code == 130
    assert "error[GK533]: the run was stopped by SIGINT" in ending.err
    assert "Traceback" not in ending.err


def test_a_killed_stage_is_named_although_the_one_that_waits_for_it_raises_too(story):
    ending = story["killed rank"]
    assert ending.exit_code == 4
    assert "error[GK531]: rank 1 ended with SIGKILL in the " in ending.err
    assert "GK530" not in ending.err
    assert "GK537" not in ending.err
    assert ending.took_s < TIMEOUT_S


@pytest.mark.grid
def test_a_rank_that_hangs_is_named_with_the_phase_in_which_the_other_waited(rare):
    """The limit of the collective, 3 s to hear who is there, 3 s until what hangs is killed, and
    what a busy machine takes."""
    ending = rare["stopped rank"]
    said = " ".join(ending.err.split())
    assert ending.exit_code == 4, ending.err
    assert f"error[GK537]: rank 1 on {os.uname().nodename} does not answer" in said
    assert re.search(r"rank 0 waited in the \w+ phase of step \d+", said)
    assert f"`cluster.collective_timeout_s` is {TIMEOUT_S}" in said
    assert "Traceback" not in ending.err
    assert ending.took_s < TIMEOUT_S + 20


@pytest.mark.parametrize("name", [*STOPS, "second", "finished"])
def test_nothing_is_left(story, name):
    """A launcher that was killed leaves its temporary files, and no process."""
    assert story[name].left == []
    assert _litter_of_ours(story[name]) == [] or name == "killed launcher"


@pytest.mark.grid
@pytest.mark.parametrize("name", RARE_STOPS)
def test_nothing_is_left_by_rare_stops(rare, name):
    assert rare[name].left == []
    assert _litter_of_ours(rare[name]) == []


def _litter_of_ours(ending: Ending) -> list[str]:
    """Without what wandb, which Megatron imports, made for itself in ranks that were killed."""
    theirs = ("wandb-media", "wandb-artifacts")
    return [file for file in ending.litter if not file.endswith(theirs)]


def test_the_stopped_run_goes_on_to_its_end(story, place):
    firsts = [story[name].first_step for name in (*STOPS, "finished")]
    assert firsts[0] == 0
    assert firsts == sorted(set(firsts)), "every attempt went on from a later checkpoint"
    assert story["finished"].exit_code == 0
    lines = read_metrics(place / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, NUM_STEPS + 1))


def test_the_finished_student_has_the_bytes_of_one_that_was_never_stopped(story, place):
    run_plan = compile_tiny(place / "home", place / "whole", devices=2, **CHANGES)
    run_on_ranks(_run, 2, encode(run_plan))
    student = f"checkpoints/step_{NUM_STEPS}/student/model.safetensors"
    assert (place / "run" / student).read_bytes() == (place / "whole" / student).read_bytes()


def test_ctrl_c_while_the_ranks_start_shows_no_traceback(place, tmp_path):
    """They import torch for seconds, and a KeyboardInterrupt in there would print where."""
    plan = (place / "plan.toml").read_text().replace(f"{place}/run", f"{tmp_path}/run")
    (tmp_path / "plan.toml").write_text(plan)
    attempt = Attempt(tmp_path)
    attempt.wait_until(lambda: len(attempt.ranks()) == 2)
    os.killpg(attempt.process.pid, signal.SIGINT)
    ending = attempt.end()
    assert ending.exit_code == 130
    assert "error[GK533]: the run was stopped by SIGINT" in ending.err
    assert "Traceback" not in ending.err
    assert ending.left == []


def test_a_schedulers_signal_saves_a_step_that_was_not_due(tmp_path):
    home = make_home(tmp_path / "home")
    text = plan_text(home, "run", steps=400, save_interval=400, held_out="[]")
    (tmp_path / "plan.toml").write_text(text)
    attempt = Attempt(tmp_path)
    metrics = attempt.directory.metrics
    attempt.wait_until(lambda: metrics.exists() and len(read_metrics(metrics)) > 1)
    attempt.process.terminate()
    assert attempt.end().exit_code == 4
    last = max(line["step"] for line in read_metrics(metrics))
    assert attempt.directory.saved_steps() == [last]
    assert last < 400


def _run(lock: str) -> None:
    Executor(open_silently(lock)).run(0)
