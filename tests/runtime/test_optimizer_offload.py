"""The optimizer's state on the host between updates: the same numbers, and the ledger's bytes."""

import pytest
from resting_runs import Runs, assert_same_state
from settled_collectives import settled
from silent_session import open_silently

from gkdplan.runplan.steps import Move
from gkdplan.runtime.executor import Executor
from gkdplan.vocab import Phase, Tier

ON_HOST = 'offload = "cpu"\nprefetch = {prefetch}'
STATE = "student main + Adam"
CONFIGURATIONS = {
    "fp32": {},
    "bf16 over data": {"dtype": "bf16", "devices": 2},
    "bf16, replicated": {"dtype": "bf16", "devices": 2, "distributed": "false"},
    "fp32 over tensor, the teacher on the host too": {"devices": 2, "tensor": 2, "offload": "cpu"},
    "bf16 in stages": {"dtype": "bf16", "devices": 2, "parallel": "pipeline = 2"},
    "adapters": {"student": 'tuning = "lora"', "dtype": "bf16"},
}
IN_EVERY_RUN = {"fp32", "bf16 over data"}
CASES = [
    pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.grid)
    for name in CONFIGURATIONS
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(_run, tmp_path_factory)


@pytest.mark.parametrize("prefetch", ["false", "true"])
@pytest.mark.parametrize("name", CASES)
def test_a_state_on_the_host_changes_no_bit_and_the_bytes_that_the_plan_says(name, prefetch, runs):
    changes = CONFIGURATIONS[name]
    kept = runs.of(**changes)
    moved = runs.of(**changes, optimizer=ON_HOST.format(prefetch=prefetch))
    moves = [step for step in moved.plan.steps if isinstance(step, Move) and step.object == STATE]
    assert [move.to_tier for move in moves] == [Tier.DEVICE, Tier.HOST]
    assert any(move.due for move in moves) is (prefetch == "true")
    assert moved.losses == kept.losses
    assert_same_state(moved, kept)
    planned, planned_without = (ran.plan.ledger.classes[0].phases for ran in (moved, kept))
    for phase, num_bytes in moved.peak_bytes.items():
        saved = kept.peak_bytes[phase] - num_bytes
        planned_saved = planned_without[Phase(phase)].peak_bytes - planned[Phase(phase)].peak_bytes
        assert saved == pytest.approx(planned_saved, abs=0.005 * kept.peak_bytes[phase]), phase


@pytest.mark.parametrize("prefetch", ["false", "true"])
def test_a_resumed_run_is_the_one_that_never_stopped(prefetch, runs):
    changes = CONFIGURATIONS["bf16 over data"] | {"optimizer": ON_HOST.format(prefetch=prefetch)}
    assert_same_state(runs.of(starts=(0, 2), **changes), runs.of(**changes))


def _run(lock: str, start_step: int) -> None:
    session = open_silently(lock, start_step)
    with settled():
        Executor(session).run(start_step)
