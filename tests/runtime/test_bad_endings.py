"""What stops a run on its ranks: training that diverged, and a state that is not the run's."""

from dataclasses import replace

import pytest
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import decode, encode, seal
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import RunDirectory, read_metrics


@pytest.fixture
def lock(tmp_path) -> str:
    return encode(compile_tiny(make_home(tmp_path / "tiny"), tmp_path / "run", devices=2))


def test_training_that_diverged_stops_before_it_is_logged_or_saved(lock):
    run_on_ranks(_diverge, 2, lock)


def test_only_the_runs_own_whole_state_is_resumed(lock):
    run_on_ranks(_save_and_damage, 2, lock)


def _diverge(lock: str) -> None:
    session = open_silently(lock)
    next(session.student[0].parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError) as stopped:
        Executor(session)._run_step(2)  # a step that would be saved
    assert _code(stopped) == "GK532"
    session.metrics.close()
    assert read_metrics(session.directory.metrics) == []
    assert session.directory.saved_steps() == []


def _save_and_damage(lock: str) -> None:
    session = open_silently(lock)
    Executor(session)._run_step(2)
    session.metrics.close()
    open_silently(lock, start_step=2).metrics.close()
    plan = decode(lock)
    open_silently(encode(seal(replace(plan, name="other"))), start_step=2).metrics.close()
    other = replace(plan, optimizer=replace(plan.optimizer, lr=plan.optimizer.lr / 2))
    with pytest.raises(UserError) as refused:
        open_silently(encode(seal(other)), start_step=2)
    assert _code(refused) == "GK510"
    path = _state_of(session.directory, session.mesh.rank)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError) as refused:
        open_silently(lock, start_step=2)
    assert _code(refused) == "GK517"
    assert str(path) in refused.value.diagnostics[0].message


def _state_of(directory: RunDirectory, rank: int):
    return directory.checkpoint(2) / "state" / f"rank_{rank}.safetensors"


def _code(raised) -> str:
    return raised.value.diagnostics[0].code
