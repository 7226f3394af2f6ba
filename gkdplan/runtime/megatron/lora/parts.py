"""The projections that lie side by side in a fused layer, and what their adapters add to it.

Legend: S positions, B rows, R rank, W width of a layer's output on this rank, G kv groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


@dataclass(frozen=True, slots=True)
class Part:
    """Columns [start, start + width) of each of `num_groups` equal stretches of a layer's output:
    those of one projection, which `target` adapts, alone or with others by the same A."""

    name: str
    target: str | None
    num_groups: int
    start: int
    width: int

    @property
    def num_rows(self) -> int:
        """Of the projection's weight on this rank."""
        return self.num_groups * self.width

    def of(self, output_SBW: Tensor) -> Tensor:
        """The projection's own columns, a view [S, B, G, width]."""
        return output_SBW.unflatten(-1, (self.num_groups, -1)).narrow(-1, self.start, self.width)


def parts_of(num_groups: int, **widths: int) -> Iterator[Part]:
    """The projections of a layer, side by side in each group."""
    start = 0
    for name, width in widths.items():
        yield Part(name, None, num_groups, start, width)
        start += width


class AddToParts(torch.autograd.Function):
    """Adds B_i z_i to the columns of each part, in place: no part of a fused projection is copied,
    and of the operands only z [S, B, targets x R] is kept."""

    @staticmethod
    def forward(
        ctx: Any, output_SBW: Tensor, narrow_SBR: Tensor, parts: tuple[Part, ...], *factors: Tensor
    ) -> Tensor:
        for part, narrow, factor in _each(parts, narrow_SBR, factors):
            columns = part.of(output_SBW)
            columns.add_(linear(narrow, factor).view_as(columns))
        ctx.mark_dirty(output_SBW)
        ctx.save_for_backward(narrow_SBR, *factors)
        ctx.parts = parts
        return output_SBW

    @staticmethod
    def backward(ctx: Any, gradient_SBW: Tensor) -> tuple[Tensor | None, ...]:
        narrow_SBR, *factors = ctx.saved_tensors
        narrow_gradients: dict[str | None, Tensor] = {}
        factor_gradients = []
        for part, narrow, factor in _each(ctx.parts, narrow_SBR, factors):
            columns = part.of(gradient_SBW).flatten(-2)
            of_narrow = columns @ factor
            before = narrow_gradients.get(part.target)
            narrow_gradients[part.target] = of_narrow if before is None else before.add_(of_narrow)
            factor_gradients.append(columns.flatten(0, -2).t() @ narrow.flatten(0, -2))
        of_narrow_SBR = torch.cat(list(narrow_gradients.values()), -1)
        return gradient_SBW, of_narrow_SBR, None, *factor_gradients


def _each(
    parts: tuple[Part, ...], narrow_SBR: Tensor, factors: Any
) -> Iterator[tuple[Part, Tensor, Tensor]]:
    targets = list(dict.fromkeys(part.target for part in parts))
    narrow = dict(zip(targets, narrow_SBR.chunk(len(targets), -1), strict=True))
    for part, factor in zip(parts, factors, strict=True):
        yield part, narrow[part.target], factor
