"""The load balancing loss of experts beside its formula, in float64 on one process."""

from pathlib import Path

import hf_reference
import pytest
import torch
from gloo_ranks import run_on_ranks
from layouts import UNIFORM, Case, case
from pairs import make_pair
from silent_session import open_silently
from tiny_plans import compile_plan_text, plan_text
from torch import Tensor
from two_steps import as_saved

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.megatron.gradients import full_gradients
from gkdplan.runtime.session import Session
from gkdplan.runtime.step_examples import examples_of_step

PAIR, COEFFICIENT = "experts to experts", 3.0
"""So large that the loss beside it is small."""
MOE_AGAIN = 'granularity = "selective"\nmodules = ["moe"]'
CASES = {
    "one process": case(PAIR, 1),
    "uniform recompute": case(PAIR, 1, recompute=UNIFORM),
    "experts made again": case(PAIR, 1, recompute=MOE_AGAIN),
    "E2 T2": case(PAIR, 2, "expert = 2", tensor=2),
    "E2 D2 of one row": case(PAIR, 2, "expert = 2", micro=1),
    "C2": case(PAIR, 2, "expert = 2", "context = 2"),
    "P2": case(PAIR, 2, "pipeline = 2"),
    "E2 T2 P2": case(PAIR, 4, "expert = 2", "pipeline = 2", tensor=2),
}
WITH_THE_GRID = {"uniform recompute", "E2 T2 P2"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair(PAIR, tmp_path_factory.mktemp("balance") / "pair")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.grid if n in WITH_THE_GRID else ()) for n in CASES],
)
def test_its_gradients_and_measure_equal_the_formula(name: str, home: Path) -> None:
    lock = _compiled(CASES[name], home, f"router_aux_loss_coef = {COEFFICIENT}")
    run_on_ranks(_check, CASES[name].num_ranks, lock)


def _compiled(chosen: Case, home: Path, student: str) -> str:
    text = plan_text(home, home / "run", **{"steps": 1, "student": student} | chosen.changes)
    return encode(compile_plan_text(text))


def _check(lock: str) -> None:
    session = open_silently(lock)
    state = Executor(session).learn(1)
    plan = session.plan
    student = hf_reference.load(Path(plan.models.student.model))
    teacher = hf_reference.load(Path(plan.models.teacher.model))
    batches = _micro_batches(session)
    loss = hf_reference.step(
        student,
        teacher,
        [row for batch in batches for row in batch],
        beta=plan.objective.beta,
        temperature=plan.objective.loss_temperature,
        vocab_size=plan.models.vocab_size,
    )
    balances = torch.stack([balances_of_layers(student, batch) for batch in batches])
    (COEFFICIENT * balances.mean(0).sum()).backward()
    assert abs(state.loss / float(loss) - 1) <= 1e-6
    assert abs(state.load_balance / float(balances.mean()) - 1) <= 1e-6
    expected = as_saved((name, p.grad) for name, p in student.named_parameters())
    for name, gradient in full_gradients(session.trainer, plan.models.student, session.mesh):
        size = expected[name].norm() or 1.0
        error = float((gradient.double() - expected[name]).norm() / size)
        assert error <= 1e-4, f"gradient of {name} is off by {error:.2e}"


def _micro_batches(session: Session) -> list[list[tuple[list[int], list[int]]]]:
    """The rows of the global batch's micro-batches, whichever rank has them."""
    rows = [(list(e.prompt), list(e.response)) for e in examples_of_step(session, 1)]
    size = session.plan.batch.micro_rows
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def balances_of_layers(student: torch.nn.Module, rows: list) -> Tensor:
    """E sum_i f_i P_i of each layer over the rows' tokens, prompt and response, none of padding."""
    of_rows = [
        student(torch.tensor([[*prompt, *response]]), output_router_logits=True).router_logits
        for prompt, response in rows
    ]
    balances = []
    for logits in zip(*of_rows, strict=True):
        probs_TE = torch.cat(logits).softmax(-1)
        num_tokens, num_experts = probs_TE.shape
        top_k = student.config.num_experts_per_tok
        chosen = probs_TE.topk(top_k, -1).indices.flatten()
        f_E = torch.bincount(chosen, minlength=num_experts) / (top_k * num_tokens)
        balances.append(num_experts * (f_E * probs_TE.mean(0)).sum())
    return torch.stack(balances)
