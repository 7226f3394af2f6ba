"""Two steps of a plan by the textbook: one process, Hugging Face models, float64, torch's AdamW."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hf_reference
import torch
from torch import Tensor

from gkdplan.runplan.model import OptimizerPlan, RunPlan
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.data.examples import Split, load_examples

NUM_STEPS = 2


@dataclass
class TwoSteps:
    """Losses, norms and first gradients of both steps, float64, tensors under Hugging Face's
    names."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """Of the first step."""
    moved: dict[str, Tensor] = field(default_factory=dict)
    """What both updates add to a parameter."""


def textbook(plan: RunPlan) -> TwoSteps:
    """Every row of the plan in each step; its rate must be constant."""
    student = hf_reference.load(Path(plan.models.student.model))
    teacher = hf_reference.load(Path(plan.models.teacher.model))
    rows = _rows(plan)
    assert len(rows) == plan.batch.global_rows
    starts = {name: p.detach().clone() for name, p in student.named_parameters()}
    optimizer = _adamw(student, plan.optimizer)
    found = TwoSteps()
    for _ in range(NUM_STEPS):
        loss = hf_reference.step(
            student,
            teacher,
            rows,
            beta=plan.objective.beta,
            temperature=plan.objective.loss_temperature,
            vocab_size=plan.models.vocab_size,
            top_k=plan.objective.top_k,
            sft_alpha=plan.objective.sft_alpha,
        )
        found.losses.append(float(loss))
        if not found.gradients:
            found.gradients = as_saved((n, p.grad.clone()) for n, p in student.named_parameters())
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), plan.optimizer.clip_grad)
        found.norms.append(float(norm))
        optimizer.step()
    found.moved = as_saved((n, p.detach() - starts[n]) for n, p in student.named_parameters())
    return found


def as_saved(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Named as in a checkpoint, where each expert has matrices of its own."""
    saved = {}
    for name, value in parameters:
        block, is_expert, stacked = name.partition(".experts.")
        if not is_expert:
            saved[name] = value
            continue
        for index, matrix in enumerate(value):
            names = ("gate_proj", "up_proj") if stacked == "gate_up_proj" else (stacked,)
            for part, piece in zip(names, matrix.chunk(len(names)), strict=True):
                saved[f"{block}.experts.{index}.{part}.weight"] = piece
    return saved


def _rows(plan: RunPlan) -> Sequence[tuple[Sequence[int], Sequence[int]]]:
    chat = load_chat(Path(plan.models.student.model))
    data, longest = plan.data, plan.sampling.max_completion_length
    found = load_examples(Split(data.train, data, longest, needs_responses=True), chat)
    return [(example.prompt, example.response or ()) for example in found.examples]


def _adamw(student: torch.nn.Module, plan: OptimizerPlan) -> torch.optim.Optimizer:
    """Vectors do not decay."""
    parameters = list(student.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1]},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=plan.lr,
        betas=plan.betas,
        eps=plan.eps,
        weight_decay=plan.weight_decay,
    )
