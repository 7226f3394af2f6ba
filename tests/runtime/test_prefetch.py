"""A copy that begins beside an earlier phase: its bytes, its values, and what it changes."""

from pathlib import Path

import pytest
import tiny
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Move
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.trace import trace
from gkdplan.vocab import Phase

FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": 2, "rows": 8}
TRACED = (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Models large enough that their tensors, not Python's odds and ends, are what is counted."""
    home = tmp_path_factory.mktemp("prefetch")
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=128, seed=1)
    tiny.save_llama(home / "student", num_layers=3, hidden=96, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    return home


@pytest.mark.parametrize(
    "layout",
    [{"devices": 1}, pytest.param({"devices": 2, "tensor": 2}, marks=pytest.mark.grid)],
)
def test_a_run_holds_in_every_phase_what_the_ledger_says_with_and_without_prefetch(
    layout, home, tmp_path
):
    waiting, early = (
        _plan(home, tmp_path / prefetch, prefetch, layout) for prefetch in ("false", "true")
    )
    (fetch,) = (step for step in early.steps if isinstance(step, Move) and step.due)
    assert (fetch.phase, fetch.due) == (Phase.GENERATE, Phase.TEACHER)
    losses = []
    grown: dict[Phase, dict[str, int]] = {}
    for run_plan in (waiting, early):
        run_on_ranks(_run_two_steps, run_plan.layout.world_size, encode(run_plan))
        first, second = _steps(run_plan)
        losses.append((first["loss"], second["loss"]))
        planned = run_plan.ledger.classes[0].phases
        for phase, num_bytes in second["peak_bytes"].items():
            assert num_bytes == pytest.approx(planned[Phase(phase)].peak_bytes, rel=0.1)
            found = grown.setdefault(Phase(phase), {"measured": 0, "planned": 0})
            sign = 1 if run_plan is early else -1
            found["measured"] += sign * num_bytes
            found["planned"] += sign * planned[Phase(phase)].peak_bytes
    assert losses[0] == losses[1]
    body = {"measured": fetch.num_bytes, "planned": fetch.num_bytes}
    assert grown.pop(Phase.GENERATE) == body
    assert set(TRACED) <= grown.keys()
    assert all(found == {"measured": 0, "planned": 0} for found in grown.values())


def test_a_trace_finds_the_bytes_of_the_ledger_with_and_without_prefetch(home, tmp_path):
    for prefetch in ("false", "true"):
        run_plan = _plan(home, tmp_path, prefetch, {"devices": 1})
        planned = run_plan.ledger.classes[0].phases
        (traced,) = trace(run_plan).values()
        assert set(traced) == set(TRACED)
        for phase, num_bytes in traced.items():
            assert num_bytes == pytest.approx(planned[phase].peak_bytes, rel=0.01)


def _plan(home: Path, output: Path, prefetch: str, layout: dict[str, int]) -> RunPlan:
    asked = f"prefetch = {prefetch}"
    return compile_tiny(home, output, offload="cpu", prefetch=asked, lmbda=1.0, **FILLED, **layout)


def _steps(run_plan: RunPlan) -> list[dict]:
    lines = read_metrics(Path(run_plan.training.output) / "metrics.jsonl")
    return [line for line in lines if "loss" in line]


def _run_two_steps(lock: str) -> None:
    session = open_silently(lock)
    with settled():
        for step in (1, 2):
            Executor(session)._run_step(step)
    session.metrics.close()
