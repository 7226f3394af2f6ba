"""Held-out figures against Hugging Face in float64, also where a rank has no row."""

from pathlib import Path

import hf_reference
import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home

from gkdplan.runplan.codec import encode
from gkdplan.runtime.evaluation import evaluate
from gkdplan.runtime.saved.run_directory import read_metrics

PAYLOADS = {"hidden": "", "logits": "", "top_k": "top_k = 8\nsft_alpha = 0.5"}
"""All ids are measured, whatever travels in training."""


@pytest.mark.parametrize(("num_rows", "payload"), [(1, "hidden"), (3, "top_k"), (8, "logits")])
def test_means_are_over_all_tokens_however_the_rows_fall_to_the_ranks(num_rows, payload, tmp_path):
    home = make_home(tmp_path / "tiny")
    held_out = tiny.save_rows(home / "held_out.jsonl", tiny.ROWS[:num_rows])
    run_plan = compile_tiny(
        home,
        tmp_path / "run",
        devices=2,
        held_out=f'["{held_out}"]',
        temperature=2.0,
        payload=payload,
        distill=PAYLOADS[payload],
    )
    run_on_ranks(_check_means, 2, encode(run_plan))


def _check_means(lock: str) -> None:
    session = open_silently(lock)
    evaluate(session, 0)
    session.metrics.close()
    if session.mesh.rank > 0:
        return
    plan, rows = session.plan, [(e.prompt, e.response) for e in session.held_out.examples]
    student = hf_reference.load(Path(plan.models.student.model))
    teacher = hf_reference.load(Path(plan.models.teacher.model))
    vocab_size = plan.models.vocab_size
    jsd = hf_reference.step(
        student, teacher, rows, beta=0.5, temperature=2.0, vocab_size=vocab_size
    )
    (line,) = read_metrics(session.directory.metrics)
    num_tokens = sum(len(response) for _, response in rows)
    assert line["eval"]["num_tokens"] == num_tokens
    assert line["eval"]["jsd"] == pytest.approx(float(jsd), rel=1e-5)
    cross_entropy = sum(_cross_entropy(student, *row, vocab_size) for row in rows) / num_tokens
    assert line["eval"]["cross_entropy"] == pytest.approx(cross_entropy, rel=1e-5)
    num_agreeing = sum(
        int((_first(student, *row, vocab_size) == _first(teacher, *row, vocab_size)).sum())
        for row in rows
    )
    assert line["eval"]["top1_agreement"] == pytest.approx(num_agreeing / num_tokens, rel=1e-12)


@torch.no_grad()
def _first(model, prompt, response, vocab_size) -> torch.Tensor:
    """The likeliest id at each token of a response."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits[:, :vocab_size].argmax(dim=1)


@torch.no_grad()
def _cross_entropy(model, prompt, response, vocab_size) -> float:
    """The sum over a response's tokens, at temperature 1."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    labels = torch.tensor(response)
    return float(torch.nn.functional.cross_entropy(logits[:, :vocab_size], labels, reduction="sum"))
