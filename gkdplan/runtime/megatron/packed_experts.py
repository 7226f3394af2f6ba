"""The experts of a layer as the files hold them, one behind the other.

Legend: E experts, I inputs, O outputs of a projection, or of gate and up together, R rank of an
adapter, or of two together.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

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


def packed_adapters(
    adapters: Iterable[tuple[str, Tensor, Tensor]], shape: ModelShape
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each adapted projection's name, A [R, I] and B [O, R], but of a shape that packs experts the
    module of all experts of a layer, A [E R, I] and B [O, R E], where the last of them comes.

    PEFT 0.21 adapts the two matrices of transformers' experts as parameters of one module
    (peft/tuners/lora/layer.py, ParamWrapper): of an expert gate and up have one A, theirs one below
    the other, and one B with theirs on its diagonal, and down is adapted around both.
    """
    if not packs_experts(shape) or shape.moe is None:
        yield from adapters
        return
    num_experts = shape.moe.num_experts
    waiting = defaultdict[str, dict[tuple[int, int], tuple[Tensor, Tensor]]](dict)
    for name, a, b in adapters:
        place = packed_place(f"{name}.weight")
        if place is None:
            yield name, a, b
            continue
        parts = waiting[place.tensor]
        parts[place.expert, place.part] = a.cpu(), b.cpu()
        if len(parts) == num_experts * place.num_parts:
            del waiting[place.tensor]
            ordered = [[parts[e, p] for p in range(place.num_parts)] for e in range(num_experts)]
            module = place.tensor.rpartition(".")[0]
            within = f"{module}.base_layer" if place.num_parts > 1 else module
            yield within, *_joined_adapters(ordered)
    assert not waiting, "every expert of a layer comes"


def _joined_adapters(experts: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
    """A and B of all experts, of the projections of each."""
    a = torch.cat([a for of_one in experts for a, _ in of_one])
    b_EOR = torch.stack([torch.block_diag(*(b for _, b in of_one)) for of_one in experts])
    return a, b_EOR.permute(1, 2, 0).flatten(1)
