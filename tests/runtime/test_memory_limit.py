"""A limit that is kept: what a plan says is over fails, what it says fits runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.diagnostics import UserError
from gkdplan.planner.memory import buffer
from gkdplan.runplan.codec import encode, seal
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.growth import growth
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.vocab import Phase

FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": 4, "rows": 8}
FILLED |= {"held_out": "[]"}
STREAMED = {"offload": "cpu", "prefetch": "stream = true"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The teacher is larger than all that its student needs."""
    home = tmp_path_factory.mktemp("limit")
    tiny.save_qwen3(home / "teacher", num_layers=24, hidden=128, ffn=512, seed=1)
    tiny.save_llama(home / "student", num_layers=2, hidden=64, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    return home


def planned(home: Path, output: Path, limit_bytes: int | None = None, **changes) -> RunPlan:
    cluster = "" if limit_bytes is None else f'memory_limit = "{limit_bytes} B"'
    return compile_tiny(home, output, cluster=cluster, **FILLED | changes)


@pytest.mark.parametrize("changes", [{}, {"devices": 2}, STREAMED])
def test_what_fits_its_limit_runs_and_what_is_over_fails_in_the_first_such_phase(
    changes, home, tmp_path
):
    free = planned(home, tmp_path / "free", **changes)
    assert free.ledger.limit_bytes is None
    peak = free.ledger.peak_bytes
    fitting = planned(home, tmp_path / "fits", int(peak * 1.07), **changes)
    assert fitting.ledger.limit_bytes == int(peak * 1.07)
    run_on_ranks(_run, fitting.layout.world_size, encode(fitting), None)
    lines = [line for line in read_metrics(tmp_path / "fits" / "metrics.jsonl") if "loss" in line]
    assert all(line["peak_bytes"] for line in lines)
    limit = int(peak * 0.95)
    over = replace(fitting.ledger, limit_bytes=limit)
    fails_in = next(phase for phase, most in over.phase_peaks.items() if most > limit)
    output = str(tmp_path / "over")
    training = replace(fitting.training, output=output)
    over_plan = seal(replace(fitting, ledger=over, training=training))
    run_on_ranks(_run, fitting.layout.world_size, encode(over_plan), fails_in)


def test_a_teacher_larger_than_the_limit_runs_streamed_with_the_same_losses(home, tmp_path):
    whole = planned(home, tmp_path / "whole")
    streamed = planned(home, tmp_path / "streamed", **STREAMED)
    limit = int(streamed.ledger.peak_bytes * 1.1)
    rows = whole.ledger.classes[0].phases[Phase.TEACHER].rows
    assert limit < rows[buffer.TEACHER_BODY]
    limited = planned(home, tmp_path / "limited", limit, **STREAMED)
    for run_plan in (whole, limited):
        run_on_ranks(_run, 1, encode(run_plan), None)
    found, expected = (
        [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("limited", "whole")
    )
    assert found == expected


def test_a_phase_beyond_its_plan_names_the_row_that_grew(home, tmp_path):
    run_on_ranks(_grow, 1, encode(planned(home, tmp_path / "run")))


def _run(lock: str, fails_in: Phase | None) -> None:
    session = open_silently(lock)
    with settled():
        if fails_in is None:
            Executor(session).run(0)
            return
        with pytest.raises(UserError, match=f"ran out of memory in the {fails_in} phase"):
            Executor(session).run(0)


def _grow(lock: str) -> None:
    session = open_silently(lock)
    as_planned = dict(session.plan.ledger.phase_peaks)
    assert not list(growth(session, as_planned))
    phase = Phase.STUDENT
    (line,) = growth(session, {phase: int(1.1 * as_planned[phase])})
    assert "(+10%); activations, loss and temporaries grew by" in line
    before = session.plan.ledger.classes[0].phases[phase].rows[buffer.STUDENT_PARAMS]
    for chunk in session.student:
        for parameter in chunk.parameters():
            parameter.data = parameter.data.repeat(9, *[1] * (parameter.dim() - 1))
    (line,) = growth(session, {phase: as_planned[phase] + 8 * before})
    assert "student params grew by" in line
