"""The card's own text, evaluated in float64, is what the loss computes and its neighbours mean."""

import re
from dataclasses import replace

import pytest
import torch

from gkdplan.report.objective import card_rows, loss_formula
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.loss import jsd_logits

BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]
TEMPERATURE = 0.7


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (p.log() - q.log())).sum()


def value_of(formula: str, teacher: torch.Tensor, student: torch.Tensor) -> float:
    """`0.1 KL(t||m) + 0.9 KL(s||m), m = 0.1 t + 0.9 s`, read as arithmetic."""
    loss, mixture = formula.split(", ")
    names = {"t": teacher, "s": student, "KL": divergence, "__builtins__": {}}
    if mixture.startswith("m = "):
        names["m"] = eval(re.sub(r" ([ts])\b", r" * \1", mixture[4:]), names)
    calls = re.sub(r"KL\((.)\|\|(.)\)", r"KL(\1, \2)", loss)
    return float(eval(re.sub(r"(?<=\d) KL", " * KL", calls), names))


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(2 * torch.randn(1, 11, generator=generator).double() for _ in range(2))


def with_beta(run_plan: RunPlan, beta: float) -> RunPlan:
    return replace(run_plan, objective=replace(run_plan.objective, beta=beta))


@pytest.mark.parametrize("beta", BETAS)
def test_the_printed_formula_is_the_loss(run_plan, logits, beta):
    student, teacher = logits
    t, s = ((side[0] / TEMPERATURE).softmax(-1) for side in (teacher, student))
    computed = jsd_logits(
        student.clone(), teacher.clone(), torch.ones(1), beta=beta, temperature=TEMPERATURE
    )
    printed = value_of(loss_formula(with_beta(run_plan, beta).objective), t, s)
    assert printed == pytest.approx(float(computed), rel=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_the_neighbours_values_of_beta_mean_the_same(run_plan, logits, beta):
    t, s = (side[0].softmax(-1) for side in reversed(logits))
    expected = value_of(loss_formula(with_beta(run_plan, beta).objective), t, s)
    translated = dict(card_rows(with_beta(run_plan, beta)))["elsewhere"]
    trl, swift = (float(b) for b in re.findall(r"(?:TRL|ms-swift) beta ([\d.]+)", translated))
    assert trl == swift == beta
    function, _, jsd_beta = translated.partition("KDFlow ")[2].partition(", jsd_beta ")
    if function == "jsd":  # KDFlow mixes with its beta as the student's share
        b = float(jsd_beta)
        mixture = b * s + (1 - b) * t
        kdflow = b * divergence(s, mixture) + (1 - b) * divergence(t, mixture)
    else:
        kdflow = {"kl": divergence(t, s), "rkl": divergence(s, t)}[function]
    assert float(kdflow) == pytest.approx(expected, rel=1e-12)
