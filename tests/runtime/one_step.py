"""One step of a session, and how far it is off the textbook's."""

from dataclasses import replace
from pathlib import Path

import hf_reference
import torch

from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.megatron.full_tensors import full_tensors
from gkdplan.runtime.session import Session
from gkdplan.runtime.step_state import StepState
from gkdplan.vocab import Dtype

CHOICE_BIAS = "e_score_correction_bias"


class Reference:
    """Hugging Face models of a run plan in float64, of weights rounded as the plan's dtypes do."""

    def __init__(self, run_plan: RunPlan) -> None:
        self._student, self._teacher = (
            _rounded(hf_reference.load(Path(model.model)), model.dtype)
            for model in (run_plan.models.student, run_plan.models.teacher)
        )

    def errors(
        self, session: Session, beta: float, temperature: float
    ) -> tuple[float, dict[str, float]]:
        """Of the step's loss, relative, and of every gradient, the norm of its error over its own;
        the step learns from the dataset's rows, all of them."""
        state = learn_once(session, beta, temperature)
        rows = [(e.prompt, e.response) for e in session.train.examples]
        assert len(rows) == session.plan.batch.global_rows
        loss = hf_reference.step(
            self._student,
            self._teacher,
            rows,
            beta=beta,
            temperature=temperature,
            vocab_size=session.plan.models.vocab_size,
            top_k=session.plan.objective.top_k,
            sft_alpha=session.plan.objective.sft_alpha,
        )
        gradients = _gradients(session)
        expected = hf_reference.gradients(self._student)
        assert gradients.keys() == expected.keys()
        errors = {
            name: float((gradient - expected[name]).norm() / expected[name].norm())
            for name, gradient in gradients.items()
        }
        return float(abs(state.loss - loss) / loss), errors


def learn_once(session: Session, beta: float, temperature: float, step: int = 1) -> StepState:
    """Teacher and student of a step under another objective, without the update."""
    objective = replace(session.plan.objective, beta=beta, loss_temperature=temperature)
    executor = Executor(replace(session, plan=replace(session.plan, objective=objective)))
    session.trainer._ddps[0].zero_grad_buffer()
    return executor.learn(step)


def _rounded(model: torch.nn.Module, dtype: Dtype) -> torch.nn.Module:
    return model.bfloat16().double() if dtype is Dtype.BF16 else model


def _gradients(session: Session) -> dict[str, torch.Tensor]:
    """The student's gradients under their Hugging Face names, whole, float64 on the host; none of
    the numbers that a router adds where it chooses, which are not trained."""
    parameters = [p for chunk in session.student for p in chunk.parameters()]
    values = [(p, p.data) for p in parameters if p.requires_grad]
    for parameter, _ in values:
        parameter.data = parameter.main_grad
    whole = full_tensors(session.student, session.plan.models.student, session.mesh)
    gradients = {
        name: tensor.double().cpu() for name, tensor in whole if not name.endswith(CHOICE_BIAS)
    }
    for parameter, value in values:
        parameter.data = value
    return gradients
