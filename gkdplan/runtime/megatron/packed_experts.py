"""The experts of a layer as the files hold them, one behind the other.

Legend: E experts, I inputs, O outputs of a projection, or of gate and up together.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from gkdplan.families.packed import packed_place, packs_experts
from gkdplan.shape import ModelShape


def packed(
    tensors: Iterable[tuple[str, Tensor]], shape: ModelShape, *, transposed: bool
) -> Iterator[tuple[str, Tensor]]:
    """The tensors in their order, but of a shape that packs experts these as [E, O, I], or
    `transposed`, where the last of them comes; they wait on the host."""
    if not packs_experts(shape) or shape.moe is None:
        yield from tensors
        return
    num_experts = shape.moe.num_experts
    waiting = defaultdict[str, dict[tuple[int, int], Tensor]](dict)
    for name, tensor in tensors:
        place = packed_place(name)
        if place is None:
            yield name, tensor
            continue
        parts = waiting[place.tensor]
        parts[place.expert, place.part] = tensor.cpu()
        if len(parts) == num_experts * place.num_parts:
            del waiting[place.tensor]
            whole_EOI = _joined(parts, num_experts, place.num_parts)
            yield place.tensor, whole_EOI.transpose(1, 2) if transposed else whole_EOI
    assert not waiting, "every expert of a layer comes"


def _joined(parts: dict[tuple[int, int], Tensor], num_experts: int, num_parts: int) -> Tensor:
    return torch.stack(
        [torch.cat([parts[e, p] for p in range(num_parts)]) for e in range(num_experts)]
    )
