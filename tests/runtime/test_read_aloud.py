"""Responses token by token beside Hugging Face in float64, on every axis that spreads tokens, rows
and layers over ranks."""

from pathlib import Path

import hf_reference
import pytest
import torch
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home

from gkdplan.runplan.codec import encode
from gkdplan.runtime.read_aloud import NUM_ROWS, read_aloud
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.step_examples import examples_of_rank, examples_of_step
from gkdplan.runtime.step_state import StepState

LAYOUTS = {
    "one process": {"devices": 1},
    "data": {"devices": 2},
    "tensor": {"devices": 2, "tensor": 2},
    "pipeline": {
        "devices": 2,
        "parallel": "pipeline = 2",
        "teacher": "[teacher.parallel]\ntensor = 2",
    },
    "context": {"devices": 2, "parallel": "context = 2"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_token_has_its_divergence(layout: str, tmp_path: Path):
    home = make_home(tmp_path / "home")
    run_plan = compile_tiny(home, tmp_path / "run", temperature=2.0, **LAYOUTS[layout])
    run_on_ranks(_check_tokens, run_plan.layout.world_size, encode(run_plan))


def _check_tokens(lock: str) -> None:
    session = open_silently(lock)
    state = StepState(1, examples_of_rank(session, 1))
    state.responses = [example.response for example in state.examples]
    read_aloud(session, state)
    session.metrics.close()
    if session.mesh.rank > 0:
        return
    plan = session.plan
    student, teacher = (
        hf_reference.load(Path(model.model)) for model in (plan.models.student, plan.models.teacher)
    )
    lines = read_metrics(session.directory.tokens)
    examples = examples_of_step(session, 1)[: len(lines)]
    assert 0 < len(lines) <= NUM_ROWS
    for line, example in zip(lines, examples, strict=True):
        of_both = [_logits(model, example, plan.models.vocab_size) for model in (student, teacher)]
        assert line["row"] == example.row
        assert "".join(line["tokens"]) == session.chat.decode(example.response, special=True)
        expected = _symmetric_jsd(*of_both, temperature=2.0)
        assert line["divergences"] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-7)
        same = of_both[0].argmax(dim=1) == of_both[1].argmax(dim=1)
        assert line["agree"] == same.tolist()


@torch.no_grad()
def _logits(model, example, vocab_size) -> torch.Tensor:
    tokens = torch.tensor([[*example.prompt, *example.response]])
    return model(tokens).logits[0, len(example.prompt) - 1 : -1, :vocab_size].double()


def _symmetric_jsd(student: torch.Tensor, teacher: torch.Tensor, temperature: float):
    """[N], in float64; `distill.beta` is 0.5."""
    q, p = ((logits / temperature).softmax(dim=1) for logits in (student, teacher))
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(dim=1) + (q * (q / m).log()).sum(dim=1)) / 2
