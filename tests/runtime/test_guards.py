"""What a run does when its numbers go wrong: each fault is put into a real step."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home

from gkdplan.diagnostics import UserError
from gkdplan.report.ending import ending
from gkdplan.report.run_record import read_run
from gkdplan.runplan.codec import encode, seal
from gkdplan.runtime import executor
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.guards import Guards
from gkdplan.runtime.machine import host_memory
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.step_state import StepState
from gkdplan.runtime.summary import summarise
from gkdplan.vocab import Source

POISONED = (2, 3)


@pytest.fixture
def plan(tmp_path):
    home = make_home(tmp_path / "tiny")
    return compile_tiny(home, tmp_path / "run", devices=2, lmbda=1.0, held_out="[]")


@pytest.mark.timeout(240)
def test_poisoned_steps_change_nothing_and_one_too_many_stops_the_run(plan):
    training = replace(plan.training, max_skipped_steps=2)
    run_on_ranks(_train_with_poison, 2, encode(seal(replace(plan, training=training))))


def _train_with_poison(lock: str) -> None:
    session = open_silently(lock)
    walker = Executor(session)
    walker._run_step(1)
    before = _bytes(session)
    for step in POISONED:
        _poisoned(session, lambda step=step: walker._run_step(step))
        assert _bytes(session) == before, "neither parameters nor Adam's state"
    walker._run_step(4)
    assert _bytes(session) != before
    for step in (5, 6):
        _poisoned(session, lambda step=step: walker._run_step(step))
    with pytest.raises(UserError) as stopped:
        _poisoned(session, lambda: walker._run_step(7))
    (found,) = stopped.value.diagnostics
    assert (found.code, found.path) == ("GK532", "run.max_skipped_steps")
    assert "step 7 has a loss of nan" in found.message
    assert "3 such steps in a row" in found.message
    summary = summarise(session)
    session.metrics.close()
    torch.distributed.barrier()
    if session.mesh.rank == 0:
        _look_at_what_is_left(session, summary)


def _poisoned(session, run) -> None:
    """A weight that is not a number while the student computes, as a broken memory would leave it;
    afterwards it is whole again."""
    weight, forward_backward = (
        next(session.student[0].parameters()),
        session.trainer.forward_backward,
    )

    def poisoned(*arguments, **options):
        kept = weight.data[0, 0].clone()
        weight.data[0, 0] = float("nan")
        loss = forward_backward(*arguments, **options)
        weight.data[0, 0] = kept
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.trainer, "forward_backward", poisoned)
        run()


def _bytes(session) -> list[bytes]:
    parameters = [p for chunk in session.student for p in chunk.parameters()]
    tensors = [*parameters, *session.trainer.state_apart()]
    return [tensor.detach().numpy().tobytes() for tensor in tensors]


def _look_at_what_is_left(session, summary) -> None:
    lines = read_metrics(session.directory.metrics)
    skipped = {line["step"]: line["skipped"] for line in lines if "skipped" in line}
    assert list(skipped) == [2, 3, 5, 6]
    assert skipped[2]["loss"] == "nan"
    assert [line["step"] for line in lines if "loss" in line] == [1, 4]
    assert summary["skipped_steps"] == [2, 3, 5, 6]
    assert "skipped   4 without a finite loss or gradient: 2, 3, 5, 6" in ending(summary, {})
    rows = [
        json.loads(line)
        for place in (0, 1)
        for line in (session.directory.skipped(7) / f"data_{place}.jsonl").read_text().splitlines()
    ]
    assert sorted({row["row"] for row in rows}) == sorted(row["row"] for row in rows)
    assert len(rows) == session.plan.batch.global_rows
    assert all(row["source"] == "student" and row["prompt"] for row in rows)


def test_a_record_of_a_run_with_such_lines_is_read(plan, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "plan.lock.json").write_text(encode(plan))
    told = {"step": 3, "warning": {"code": "GK574", "message": "grows"}}
    lines = [{"step": 2, "skipped": {"loss": "nan", "grad_norm": "nan"}}, told]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert read_run(run).steps == ()


@pytest.mark.timeout(240)
def test_responses_that_are_empty_are_warned_of_once(plan):
    run_on_ranks(_sample_only_ends, 2, encode(plan))


def _sample_only_ends(lock: str) -> None:
    """The student writes its end at once."""
    session = open_silently(lock)
    end = min(session.chat.stop_ids)

    def only_ends(session, ahead, action, state) -> None:
        state.responses = [(end,) for _ in state.examples]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "generate", only_ends)
        walker = Executor(session)
        walker._run_step(1)
        walker._run_step(3)
    session.metrics.close()
    torch.distributed.barrier()
    warned = [line for line in read_metrics(session.directory.metrics) if "warning" in line]
    assert [(line["step"], line["warning"]["code"]) for line in warned] == [(1, "GK573")]
    assert "8 responses of the student have 8 tokens" in warned[0]["warning"]["message"]


def warned(plan, norms: Sequence[float]) -> list[tuple[int, str]]:
    guards, found = Guards(plan), []
    for step, norm in enumerate(norms, 1):
        state = StepState(step, [], Source.DATASET, num_tokens=80, loss=1.0, grad_norm=norm)
        found += [(step, code) for code, _ in guards.warnings(state)]
    return found


def test_a_gradient_that_grows_tenfold_is_warned_of_when_it_begins(plan):
    usual = [1.0, 1.2, 0.8] * 5
    assert warned(plan, [*usual, 9.0]) == []
    assert warned(plan, [*usual, 10.5, 11.0, 1.0, 12.0]) == [(16, "GK574"), (19, "GK574")]
    assert warned(plan, [1.0, 100.0]) == [], "two steps are no usual"


def test_what_is_not_finite_counts_in_a_row(plan):
    guards = Guards(replace(plan, training=replace(plan.training, max_skipped_steps=1)))
    for loss, is_skipped, is_enough in (
        (math.nan, True, False),
        (1.0, False, False),
        (math.inf, True, False),
        (math.nan, True, True),
    ):
        state = StepState(1, [], loss=loss, grad_norm=1.0)
        assert (guards.is_to_be_skipped(state), guards.is_enough) == (is_skipped, is_enough)


@pytest.mark.parametrize(
    ("available", "limit", "used", "refused"),
    [
        (10**9, "max", 0, False),
        (4, "max", 0, True),
        (10**9, str(2**20), 2**20 - 4096, True),
        (10**9, str(2**40), 4096, False),
    ],
)
def test_a_host_with_too_little_memory_is_refused(
    available, limit, used, refused, plan, tmp_path, monkeypatch
):
    """As the kernel tells it, in kB, and within the limit of the control group."""
    monkeypatch.setattr(host_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {available} kB\n")
    for name, text in {"max": limit, "current": str(used), "stat": "anon 1\nfile 0\n"}.items():
        Path(tmp_path, f"memory.{name}").write_text(text)
    found = tuple(host_memory.too_little(plan))
    assert [one.code for one in found] == (["GK585"] if refused else [])
    if refused:
        assert "2 x " in found[0].notes[0]


def test_this_host_says_what_it_has():
    found = host_memory.available_bytes()
    assert found is not None
    assert found > 2**20
