"""Two steps of every layout of the matrix, held against Hugging Face models in float64 on one
process: both losses and norms, every gradient, and the way of every parameter over both updates,
which is stricter than where it ends."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from layouts import MATRIX, WITH_THE_GRID, Case
from pairs import make_pair
from silent_session import open_silently
from tiny_plans import compile_plan_text, plan_text
from two_steps import NUM_STEPS, TwoSteps, textbook

from gkdplan.runplan.codec import encode, seal
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import OptimizerStep
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.megatron.full_tensors import full_tensors
from gkdplan.runtime.megatron.gradients import full_gradients
from gkdplan.runtime.session import Session
from gkdplan.runtime.step_examples import examples_of_rank
from gkdplan.runtime.step_state import StepState

LOSS = 1e-6
GRADIENT = 1e-4
PARAMETER = 1e-4
ADAM_EPS = 1e-6
"""So large that an update depends on the size of a gradient that rounding could turn round."""


CASES = [
    pytest.param(name, marks=pytest.mark.grid if name in WITH_THE_GRID else ()) for name in MATRIX
]


class References:
    """A pair's two steps by the textbook, the same for every layout."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def of(self, case: Case) -> tuple[RunPlan, Path]:
        """The run plan of a case, and the file of what it must do."""
        home = self._directory / case.pair.replace(" ", "_")
        if not home.exists():
            make_pair(case.pair, home)
        run_plan = compile_case(case, home)
        file = home / f"two_steps_{run_plan.objective.payload}.pt"
        if not file.exists():
            torch.save(textbook(run_plan), file)
        return run_plan, file


def compile_case(case: Case, home: Path) -> RunPlan:
    text = plan_text(home, home / "run", **{"steps": NUM_STEPS} | case.changes)
    if case.teacher:
        text += f"\n[teacher.parallel]\n{case.teacher}\n"
    run_plan = compile_plan_text(text)
    optimizer = replace(run_plan.optimizer, schedule="constant", eps=ADAM_EPS)
    return seal(replace(run_plan, optimizer=optimizer))


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return References(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("name", CASES)
def test_two_steps_equal_float64_on_one_process(name: str, references: References) -> None:
    run_plan, file = references.of(MATRIX[name])
    run_on_ranks(_check, MATRIX[name].num_ranks, encode(run_plan), file)


def _check(lock: str, file: Path) -> None:
    expected: TwoSteps = torch.load(file, weights_only=False)
    session = open_silently(lock)
    starts = _whole(session)
    executor = Executor(session)
    for step, (loss, norm) in enumerate(zip(expected.losses, expected.norms, strict=True), start=1):
        state = StepState(step, examples_of_rank(executor.session, step))
        for action in executor.plan.steps:
            if isinstance(action, OptimizerStep) and step == 1:
                _check_gradients(session, expected)
            executor._walk(action, state)
            if isinstance(action, OptimizerStep):
                break
        assert abs(state.loss / loss - 1) <= LOSS, f"loss {step}: {state.loss / loss - 1:+.2e}"
        assert abs(state.grad_norm / norm - 1) <= GRADIENT, f"norm: {state.grad_norm / norm - 1}"
    ends = _whole(session)
    for name, end in ends.items():
        _assert_near(end - starts[name], expected.moved[name], PARAMETER, f"the way of {name}")
    _assert_all(ends, expected)


def _check_gradients(session: Session, expected: TwoSteps) -> None:
    plan = session.plan.models.student
    gradients = dict(full_gradients(session.trainer, plan, session.mesh))
    for name, gradient in gradients.items():
        _assert_near(gradient.double(), expected.gradients[name], GRADIENT, f"gradient of {name}")
    _assert_all(gradients, expected)


def _whole(session: Session) -> dict[str, torch.Tensor]:
    whole = full_tensors(session.trainer.chunks, session.plan.models.student, session.mesh)
    return {name: tensor.double() for name, tensor in whole}


def _assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> None:
    error = (found - expected).norm() / expected.norm() if expected.any() else found.norm()
    assert error <= tolerance, f"{what} is off by {float(error):.2e}"


def _assert_all(found: dict[str, torch.Tensor], expected: TwoSteps) -> None:
    """Every parameter is on some rank."""
    names: list[set[str]] = [set()] * dist.get_world_size()
    dist.all_gather_object(names, set(found))
    assert set().union(*names) == expected.moved.keys()
