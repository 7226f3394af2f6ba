"""Gradients that were computed in the forward pass, handed over in the backward pass."""

from typing import Any

import torch
from torch import Tensor


def hand_over(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    """`ctx.gradients` times the scalar `grad_output`.

    They are scaled in place and given away, so that nothing of their size is made a second time;
    where the caller keeps the graph (`retain_graph=True`) they are scaled into copies instead. A
    factor of 1 is worth its read on the host: scaling by it would move them once more.
    """
    gradients: tuple[Tensor | None, ...] = ctx.gradients
    if torch._C._autograd._get_current_graph_task_keep_graph():
        return tuple(None if g is None else g * grad_output.to(g.dtype) for g in gradients)
    ctx.gradients = None
    if float(grad_output) == 1.0:
        return gradients
    return tuple(None if g is None else g.mul_(grad_output) for g in gradients)
