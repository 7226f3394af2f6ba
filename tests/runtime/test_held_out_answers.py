"""What the student answers to held-out prompts: the likeliest words, in every layout."""

from pathlib import Path

import hf_reference
import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from test_read_aloud import LAYOUTS
from tiny_plans import compile_tiny, make_home

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.held_out_answers import answer_held_out
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.vocab import Phase


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_answers_are_the_likeliest_words(layout: str, tmp_path: Path):
    home = make_home(tmp_path / "home")
    run_plan = compile_tiny(home, tmp_path / "run", run="eval_samples = 3", **LAYOUTS[layout])
    run_on_ranks(_check_answers, run_plan.layout.world_size, encode(run_plan))


def _check_answers(lock: str) -> None:
    session = open_silently(lock)
    Executor(session)._evaluate_before_training()
    session.metrics.close()
    if session.mesh.rank > 0:
        return
    plan, chat = session.plan, session.chat
    student = hf_reference.load(Path(plan.models.student.model))
    lines = read_metrics(session.directory.answers)
    assert len(lines) == 3
    for line, example in zip(lines, session.held_out.examples, strict=False):
        limit = plan.sampling.max_completion_length
        answer = _likeliest(student, example.prompt, limit, chat.stop_ids, plan.models.vocab_size)
        assert line == {
            "step": 0,
            "row": example.row,
            "question": example.question,
            "expected": chat.decode(example.response),
            "answer": chat.decode(answer),
            "num_tokens": len(answer),
        }


@torch.no_grad()
def _likeliest(model, prompt, limit, stop_ids, vocab_size) -> list[int]:
    answer: list[int] = []
    while len(answer) < limit and not set(answer) & stop_ids:
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, -1, :vocab_size]
        answer.append(int(logits.argmax()))
    return answer


FILLED = {"prompt": 40, "completion": 88, "truncation": "right", "steps": 2, "rows": 2, "micro": 1}


@pytest.mark.parametrize("layout", ["one process", "data", "tensor"])
def test_their_memory_is_as_planned(layout: str, tmp_path: Path):
    home = tmp_path / "home"
    tiny.save_qwen3(home / "teacher", num_layers=2, hidden=64, seed=1)
    tiny.save_llama(home / "student", num_layers=3, hidden=96, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS * 8])
    asked = {"run": "eval_samples = 32", **LAYOUTS[layout]}
    run_plan = compile_tiny(home, tmp_path / "run", **FILLED, **asked)
    without = compile_tiny(home, tmp_path / "run", **FILLED, **LAYOUTS[layout])
    planned = _planned(run_plan)
    assert planned > 1.3 * _planned(without), "the answers are the peak of their phase"
    run_on_ranks(_check_memory, run_plan.layout.world_size, encode(run_plan), planned)


def _check_memory(lock: str, planned: int) -> None:
    session = open_silently(lock)
    with settled():
        Executor(session)._run_step(1)
        with session.phases.step(2), session.phases.phase(Phase.CHECKPOINT):
            answer_held_out(session, 1, 32)
    session.metrics.close()
    measured = session.phases.peak_bytes[Phase.CHECKPOINT]
    assert 0.95 <= measured / planned <= 1.05, f"measured is {measured / planned:.3f} of planned"


def _planned(run_plan) -> int:
    return run_plan.ledger.classes[0].phases[Phase.CHECKPOINT].peak_bytes


def test_more_prompts_than_rows_are_refused(tmp_path: Path):
    home = make_home(tmp_path / "home")
    with pytest.raises(AssertionError, match="GK495"):
        compile_tiny(home, tmp_path / "run", run="eval_samples = 999")
