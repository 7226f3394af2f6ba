"""A model's whole tensors, one Megatron parameter at a time, from the ranks that share it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from gkdplan.families.tensors import expected_tensors
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.megatron.hf_layout import VISION, Slice
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.parameters import (
    base_parameters,
    is_of_an_expert,
    sharing_group,
    slices_of_ranks,
)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter of the model lies: in a stage, and an expert's on a rank of its axis."""

    name: str
    dtype: torch.dtype
    stage: int
    expert_rank: int


@torch.no_grad()
def full_tensors(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Tensor]]:
    """The model's weights under their Hugging Face names, in an order that no layout changes.

    Collective: every rank iterates to the end and gets every tensor, on the mesh's device,
    one Megatron parameter's worth at a time. Padding rows of the vocabulary are cut, a tied
    head comes as the embedding alone, adapters are left out. Layers are numbered as in the model.
    """
    yield from _whole(dict(base_parameters(chunks, plan, mesh)), plan, mesh)


@torch.no_grad()
def full_eyes(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Tensor]]:
    """Those of them that are of a tower or projector."""
    own = {n: p for n, p in base_parameters(chunks, plan, mesh) if n.startswith(VISION)}
    yield from _whole(own, plan, mesh)


def _whole(
    parameters: Mapping[str, Tensor], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Tensor]]:
    own = {name: parameter.detach() for name, parameter in parameters.items()}
    shapes = expected_tensors(plan.shape)
    for place in _places(own, plan, mesh, shapes):
        layouts = slices_of_ranks(plan, mesh, place.name)
        share = own.get(place.name)
        if share is None:
            size = _size(layouts[sharing_group(mesh, place.name).rank()], shapes)
            share = torch.empty(size, dtype=place.dtype, device=mesh.device)
        shares = _shares(share, place, mesh, is_cut=layouts[0] != layouts[-1])
        del share
        for tensor, whole in _joined(layouts, shares):
            yield tensor, whole[: shapes[tensor][0]]


def _places(own: Mapping[str, Tensor], plan: ModelPlan, mesh: Mesh, shapes: Shapes) -> list[Place]:
    """Every parameter of the model in the order of the tensors that they begin with; what several
    ranks hold, such as a tied embedding, at the first of them."""
    experts, stages = mesh.groups.ep, mesh.groups.pp
    places = {
        slices_of_ranks(plan, mesh, name)[0][0].tensor: Place(
            name, parameter.dtype, stages.rank(), experts.rank()
        )
        for name, parameter in own.items()
    }
    for group in (experts, stages):
        if group.size() == 1:
            continue
        of_ranks: list[dict[str, Place]] = [{} for _ in range(group.size())]
        dist.all_gather_object(of_ranks, places, group=group)
        places = {name: place for one in reversed(of_ranks) for name, place in one.items()}
    return [places[tensor] for tensor in shapes if tensor in places]


def _size(layout: tuple[Slice, ...], shapes: Shapes) -> list[int]:
    size = list(shapes[layout[0].tensor])
    size[layout[0].dim] = sum(piece.stop - piece.start for piece in layout)
    return size


def _shares(share: Tensor, place: Place, mesh: Mesh, *, is_cut: bool) -> list[Tensor]:
    """The shares of all ranks that a parameter is cut over, in order; of one that is not cut the
    first. `share` is filled with this rank's where it lies elsewhere."""
    if is_of_an_expert(place.name) and mesh.pipeline_rank == place.stage:
        _broadcast(share, mesh.groups.ep, place.expert_rank)
    _broadcast(share, mesh.groups.pp, place.stage)
    if not is_cut:
        return [share]
    group = sharing_group(mesh, place.name)
    shares = [torch.empty_like(share) for _ in range(group.size())]
    dist.all_gather(shares, share, group=group)
    return shares


def _broadcast(share: Tensor, group: dist.ProcessGroup, source: int) -> None:
    if group.size() > 1:
        dist.broadcast(share, group=group, group_src=source)


def _joined(
    layouts: Sequence[tuple[Slice, ...]], shares: Sequence[Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that the shares of one parameter are slices of."""
    dim = layouts[0][0].dim
    pieces: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for layout, share in zip(layouts, shares, strict=False):
        lengths = [piece.stop - piece.start for piece in layout]
        for piece, value in zip(layout, share.split(lengths, dim), strict=True):
            pieces[piece.tensor][piece.start] = value
    for tensor, parts in pieces.items():
        yield tensor, torch.cat([parts[start] for start in sorted(parts)], dim)
