"""The student's gradients and weights off the device while nothing reads them: the same numbers,
and the ledger's bytes."""

from unittest.mock import patch

import pytest
import torch
from resting_runs import NUM_STEPS, TOLERANCE, Ran, Runs, assert_same_state
from settled_collectives import settled
from silent_session import open_silently

from gkdplan.runplan.steps import Move
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.residency import Residency
from gkdplan.vocab import Phase, Tier

TWO = {"devices": 2}
STATE = {"optimizer": 'offload = "cpu"'}
EMA = {"teacher_model": 'self = "ema"\ndecay = 0.5', "distill": "sft_alpha = 1.0"}
EMA |= {"lmbda": 0.0, "seq_kd": 0.0}
CONFIGURATIONS = {
    "fp32": {},
    "bf16 over data": TWO | {"dtype": "bf16"},
    "bf16 over data, all else on the host": TWO | STATE | {"dtype": "bf16", "offload": "cpu"},
    "bf16, replicated": TWO | {"dtype": "bf16", "distributed": "false"},
    "tensor": TWO | {"tensor": 2},
    "bf16 in stages, state fetched early": TWO
    | {"dtype": "bf16", "parallel": "pipeline = 2"}
    | {"optimizer": 'offload = "cpu"\nprefetch = true'},
    "adapters": {"student": 'tuning = "lora"', "dtype": "bf16"},
    "the average of the student": EMA | {"dtype": "bf16"},
}
IN_EVERY_RUN = {"bf16 over data", "bf16 over data, all else on the host"}
CASES = [
    pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.grid)
    for name in CONFIGURATIONS
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(_run, tmp_path_factory)


@pytest.mark.parametrize("offload", ["grads", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_a_student_that_rests_changes_no_bit_and_the_bytes_that_the_plan_says(name, offload, runs):
    kept, moved = _ran(runs, name, "none"), _ran(runs, name, offload)
    moves = {
        (m.object, m.phase, m.to_tier) for m in moved.plan.schedule.moves if "student" in m.object
    }
    wanted = {
        ("student grads", Phase.STUDENT, Tier.DEVICE),
        ("student grads", Phase.CHECKPOINT, Tier.DROPPED),
    }
    if offload == "cpu":
        wanted |= {
            ("student params", Phase.TEACHER, Tier.HOST),
            ("student params", Phase.STUDENT, Tier.DEVICE),
        }
    assert wanted <= moves
    assert moved.losses == kept.losses
    assert_same_state(moved, kept)
    planned, planned_without = (ran.plan.ledger.phase_peaks for ran in (moved, kept))
    assert planned[Phase.TEACHER] < planned_without[Phase.TEACHER]
    for phase in (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER):
        saved = kept.peak_bytes[phase] - moved.peak_bytes[phase]
        planned_saved = planned_without[phase] - planned[phase]
        assert saved == pytest.approx(planned_saved, abs=0.005 * kept.peak_bytes[phase])
    assert all(abs(error) <= TOLERANCE for error in moved.errors.values()), moved.errors


def test_a_resumed_run_is_the_one_that_never_stopped(runs):
    whole = _ran(runs, "bf16 over data", "cpu")
    stopped = _ran(runs, "bf16 over data", "cpu", starts=(0, 2))
    assert_same_state(stopped, whole)


def _ran(runs: Runs, name: str, offload: str, starts: tuple[int, ...] = (0,)) -> Ran:
    changes = CONFIGURATIONS[name]
    student = f'offload = "{offload}"\n{changes.get("student", "")}'
    return runs.of(starts=starts, **changes | {"student": student})


def _run(lock: str, start_step: int) -> None:
    """What moves is what is scheduled, and reads of what is away find nothing."""
    session = open_silently(lock, start_step)
    moved: list[Move] = []
    apply = Residency.apply

    def seen(residency: Residency, move: Move) -> None:
        moved.append(move)
        apply(residency, move)
        if move.object == "student grads":
            _assert_there(session.trainer.gradients(), move.to_tier is Tier.DEVICE)
        if move.object == "student params":
            parameters = [p for chunk in session.student for p in chunk.parameters()]
            _assert_there(parameters, move.to_tier is Tier.DEVICE)

    with settled(), patch.object(Residency, "apply", seen):
        Executor(session).run(start_step)
    assert moved == [*session.plan.schedule.moves] * (NUM_STEPS - start_step)


def _assert_there(tensors: list[torch.Tensor], is_there: bool) -> None:
    assert tensors
    assert all((t.untyped_storage().nbytes() > 0) is is_there for t in tensors)
