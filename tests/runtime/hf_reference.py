"""One training step of GKD by the textbook: one process, Hugging Face models, float64, autograd.

It pads nothing, batches nothing and takes every row by itself, so that it shares no idea with the
runtime but the definition: the mean, over all response tokens of the global batch, of the
generalized JSD between teacher and student at one temperature, and of the labels' cross-entropy.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

Rows = Sequence[tuple[Sequence[int], Sequence[int]]]


def load(directory: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float64,
        attn_implementation="eager",
        experts_implementation="eager",
    )


def step(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    rows: Rows,
    *,
    beta: float,
    temperature: float,
    vocab_size: int,
    top_k: int | None = None,
    sft_alpha: float = 0.0,
) -> Tensor:
    """The loss of one global batch of (prompt, response) rows; the student's grads are filled."""
    student.zero_grad()
    num_tokens = sum(len(response) for _, response in rows)
    total = torch.zeros((), dtype=torch.float64)
    for prompt, response in rows:
        tokens = torch.tensor([[*prompt, *response]])
        predicting = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
        with torch.no_grad():
            teacher_logits = teacher(tokens).logits[0, predicting, :vocab_size]
        student_logits = student(tokens).logits[0, predicting, :vocab_size]
        p = torch.softmax(teacher_logits / temperature, -1)
        q = torch.softmax(student_logits / temperature, -1)
        if top_k is not None:
            ids = p.topk(top_k).indices
            p, q = (buckets(x, ids) for x in (p, q))
        total = total + generalized_jsd(p, q, beta).sum() / num_tokens
        cross_entropy = torch.nn.functional.cross_entropy(
            student_logits, torch.tensor(response), reduction="sum"
        )
        total = total + sft_alpha * cross_entropy / num_tokens
    total.backward()
    return total.detach()


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Under the names of a checkpoint, where every expert has matrices of its own."""
    found = {}
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".")
        if not path.endswith(".experts"):
            found[name] = parameter.grad
            continue
        parts = ("gate_proj", "up_proj") if last == "gate_up_proj" else ("down_proj",)
        for expert, gradient in enumerate(parameter.grad):
            rows = zip(parts, gradient.chunk(len(parts)), strict=True)
            found |= {f"{path}.{expert}.{part}.weight": of_part for part, of_part in rows}
    return found


def generalized_jsd(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """Agarwal et al. 2024, eq. 1, but KL(p || q) at beta 0 and KL(q || p) at 1; [N, V] -> [N]."""
    if beta == 0:
        return kl(p, q)
    if beta == 1:
        return kl(q, p)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def buckets(probs: Tensor, ids: Tensor) -> Tensor:
    """The probabilities of the ids, and of all others together: [N, K + 1]."""
    kept = probs.gather(-1, ids)
    return torch.cat([kept, 1.0 - kept.sum(-1, keepdim=True)], -1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum(-1)
