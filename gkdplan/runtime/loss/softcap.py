"""Bounded logits c tanh(l / c), whose derivative is 1 - tanh^2(l / c) (Gemma Team, "Gemma 2",
arXiv 2408.00118, section 2).

Legend: N tokens, V vocabulary entries.
"""

from typing import Any

import torch
from torch import Tensor


def bound_(logits: Tensor, softcap: float | None) -> Tensor:
    """Bound logits in place, which ask for no gradient; None leaves them as they are."""
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def slope_(bounded: Tensor, softcap: float) -> Tensor:
    """The derivative at bounded logits, in their place."""
    return bounded.div_(softcap).square_().neg_().add_(1.0)


def bounded(logits_NV: Tensor, softcap: float | None) -> Tensor:
    """`bound_` of logits that are the result of an operation and may ask for a gradient.

    They are overwritten. The derivative is kept beside them, so that a loss may put its gradient
    in their place.
    """
    if softcap is None:
        return logits_NV
    result: Tensor = _Bounded.apply(logits_NV, softcap)
    return result


class _Bounded(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, softcap: float) -> Tensor:
        bound_(logits_NV, softcap)
        ctx.mark_dirty(logits_NV)
        if ctx.needs_input_grad[0]:
            ctx.slope_NV = slope_(logits_NV.clone(), softcap)
        return logits_NV

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        """Once, in the slope's place."""
        slope_NV, ctx.slope_NV = ctx.slope_NV, None
        if slope_NV is None:
            raise RuntimeError("the gradient of these logits has been taken already")
        return slope_NV.mul_(grad_output), None
