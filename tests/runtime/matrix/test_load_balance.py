"""The load balancing loss of experts beside its formula, in float64 on one process."""

from pathlib import Path

import hf_reference
import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from layouts import UNIFORM, Case, case
from one_step import CHOICE_BIAS
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


GROUPS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2}
GROUPS |= {"qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8, "kv_lora_rank": 12}
GROUPS |= {"q_lora_rank": 20, "moe_intermediate_size": 16, "n_shared_experts": 1}
GROUPS |= {"num_key_value_heads": 4, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5}
IN_GROUPS = {
    "deepseek_v2": GROUPS | {"topk_method": "group_limited_greedy"},
    "deepseek_v3": GROUPS,
}


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


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("deepseek_v3", "E2 D2 of one row"),
        *(
            pytest.param(family, name, marks=pytest.mark.grid)
            for family in IN_GROUPS
            for name in ("one process", "E2 T2", "C2", "P2")
        ),
    ],
)
def test_experts_that_are_chosen_in_groups_are_counted_as_they_are_chosen(
    family: str, name: str, tmp_path: Path
) -> None:
    for role, seed in (("teacher", 1), ("student", 2)):
        tiny.save_family(tmp_path / role, family, num_layers=4, seed=seed, **IN_GROUPS[family])
    tiny.save_rows(tmp_path / "rows.jsonl")
    lock = _compiled(CASES[name], tmp_path, f"router_aux_loss_coef = {COEFFICIENT}")
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
        if name.endswith(CHOICE_BIAS):
            continue  # which nothing trains
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
    of_rows = [_routed(student, torch.tensor([[*prompt, *response]])) for prompt, response in rows]
    balances = []
    for of_layer in zip(*of_rows, strict=True):
        logits_TE, chosen_Tk = map(torch.cat, zip(*of_layer, strict=True))
        probs_TE = _probabilities(student, logits_TE)
        num_tokens, num_experts = probs_TE.shape
        f_E = torch.bincount(chosen_Tk.flatten(), minlength=num_experts) / chosen_Tk.numel()
        balances.append(num_experts * (f_E * probs_TE.mean(0)).sum())
        assert len(chosen_Tk) == num_tokens
    return torch.stack(balances)


def _routed(student: torch.nn.Module, tokens_1T: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each layer's router the logits and the experts that it chose."""
    found: list[tuple[Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: found.append((output[0], output[-1])))
        for module in student.modules()
        if type(module).__name__.endswith("TopkRouter") or "TopKRouter" in type(module).__name__
    ]
    student(tokens_1T)
    for hook in hooks:
        hook.remove()
    return found


def _probabilities(student: torch.nn.Module, logits_TE: Tensor) -> Tensor:
    """Softmax, or sigmoids scaled to a sum of 1 (DeepSeek-AI, arXiv 2412.19437, equation 19)."""
    if student.config.model_type != "deepseek_v3":
        return logits_TE.softmax(-1)
    scores_TE = logits_TE.sigmoid()
    return scores_TE / scores_TE.sum(-1, keepdim=True)
