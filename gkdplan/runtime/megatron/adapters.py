"""Adapters of the whole model: drawn alike in every layout, and put together from the ranks.

Legend: R rank.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import Parameter

from gkdplan.families.tensors import names_of
from gkdplan.projections import OF_EXPERTS, parts_of
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.megatron.full_tensors import full_tensors
from gkdplan.runtime.megatron.lora import ADAPTER, OF_LATENTS, WHOLE
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import stage_of_layer
from gkdplan.runtime.megatron.parameters import (
    adapter_parameters,
    rank_of_expert,
    sharing_group,
)
from gkdplan.shape import ModelShape


@dataclass(frozen=True, slots=True)
class _Home:
    """The linear layer of Megatron's that holds a projection, and its block in the checkpoint."""

    linear: str
    block: str
    is_row_parallel: bool
    is_whole: bool = False


_QKV = _Home("self_attention.linear_qkv", "self_attn", False)
_FC1 = _Home("mlp.linear_fc1", "mlp", False)
_HOMES = {
    "q_proj": _QKV,
    "k_proj": _QKV,
    "v_proj": _QKV,
    "qkv_proj": _QKV,
    "o_proj": _Home("self_attention.linear_proj", "self_attn", True),
    "gate_proj": _FC1,
    "up_proj": _FC1,
    "gate_up_proj": _FC1,
    "down_proj": _Home("mlp.linear_fc2", "mlp", True),
}
_HOMES_OF_LATENTS = _HOMES | {
    name: _Home(f"self_attention.{linear}", "self_attn", False, is_whole)
    for name, (linear, is_whole) in OF_LATENTS.items()
}


def _home(target: str, shape: ModelShape) -> _Home:
    return (_HOMES if shape.latent is None else _HOMES_OF_LATENTS)[target]


@dataclass(frozen=True, slots=True)
class _Adapted:
    """A projection with an adapter: its name in the checkpoint, and Megatron's linear layer."""

    name: str
    target: str
    layer: int
    home: _Home
    linear: str
    expert: int | None = None

    @property
    def adapter(self) -> str:
        return f"decoder.layers.{self.layer}.{self.linear}.{ADAPTER}"


def _adapted_projections(plan: ModelPlan) -> Iterator[_Adapted]:
    """Layer by layer, and an expert's one after the other."""
    assert plan.lora is not None
    names, shape = names_of(plan.shape), plan.shape
    for layer in range(shape.num_layers):
        moe = shape.experts_of(layer)
        prefix = f"{names.layers}.{layer}"
        for target in plan.lora.targets:
            home = _home(target, shape)
            if moe is None or target not in OF_EXPERTS:
                name = f"{prefix}.{home.block}.{target}"
                yield _Adapted(name, target, layer, home, home.linear)
                continue
            for expert in range(moe.num_experts):
                block = f"{prefix}.{names.experts.block}.experts.{expert}"
                linear = home.linear.replace("mlp", f"mlp.experts.{expert}")
                name = f"{block}.{names.experts.name_of(target)}"
                yield _Adapted(name, target, layer, home, linear, expert)


@torch.no_grad()
def draw_adapters(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh, seed: int, *, both: bool = False
) -> None:
    """Set every adapter, the same whatever the layout: A as PEFT draws it, uniform between
    +-1 / sqrt(in), and B zero, so that the model computes what its frozen base does; with `both` B
    is drawn as A is.

    Each factor is drawn whole from (seed, its name in the model) and then cut.
    """
    for name, parameter in adapter_parameters(chunks, plan, mesh):
        if both or name.endswith(".a"):
            parameter.copy_(_drawn(name, parameter, mesh, seed))
        else:
            parameter.zero_()


@torch.no_grad()
def whole_adapters(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The checkpoint's name of each adapted projection, with its A [R, in] and its B [out, R].

    Collective: every rank iterates to the end and gets every adapter, layer by layer.
    """
    own = dict(adapter_parameters(chunks, plan, mesh))
    for adapted in _adapted_projections(plan):
        yield adapted.name, *_whole_adapter(own, plan, mesh, adapted)


@torch.no_grad()
def merged_tensors(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Tensor]]:
    """`full_tensors`, adapted weights as W + alpha / rank B A (Hu et al., arXiv 2106.09685, 4.1),
    multiplied in float32; without adapters the weights as they are."""
    if plan.lora is None:
        yield from full_tensors(chunks, plan, mesh)
        return
    own = dict(adapter_parameters(chunks, plan, mesh))
    scale = plan.lora.alpha / plan.lora.rank
    adapted = {f"{one.name}.weight": one for one in _adapted_projections(plan)}
    for name, weight in full_tensors(chunks, plan, mesh):
        if name in adapted:
            a, b = _whole_adapter(own, plan, mesh, adapted[name])
            weight = (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
        yield name, weight


def _whole_adapter(
    own: dict[str, Parameter], plan: ModelPlan, mesh: Mesh, adapted: _Adapted
) -> tuple[Tensor, Tensor]:
    """A and B of one projection, from the ranks that hold its shares, on all ranks."""
    assert plan.lora is not None
    target, rank, like = adapted.target, plan.lora.rank, next(iter(own.values()))
    shape = plan.shape if adapted.expert is not None else plan.shape.without_experts
    num_outputs, num_inputs = shape.projection_size(target)
    a, b = like.new_empty(rank, num_inputs), like.new_empty(num_outputs, rank)
    stage = stage_of_layer(plan, adapted.layer)
    if f"{adapted.adapter}.a" in own:
        group = sharing_group(mesh, adapted.adapter)
        beside = [t for t in plan.lora.targets if _home(t, shape) is adapted.home]
        share = own[f"{adapted.adapter}.a"].chunk(len(beside))[beside.index(target)]
        is_row_parallel = adapted.home.is_row_parallel
        a = _joined(share, group, 1) if is_row_parallel else share.contiguous()
        factors = [own[f"{adapted.adapter}.b.{part}"] for part in parts_of(target)]
        if not is_row_parallel and not adapted.home.is_whole:
            factors = [_joined(factor, group, 0) for factor in factors]
        b = torch.cat(factors)
    for tensor in (a, b):
        if adapted.expert is not None and mesh.pipeline_rank == stage:
            _broadcast(tensor, mesh.groups.ep, rank_of_expert(plan, mesh, adapted.expert))
        _broadcast(tensor, mesh.pipeline_group, stage)
    return a, b


def _broadcast(tensor: Tensor, group: ProcessGroup, source: int) -> None:
    if group.size() > 1:
        dist.broadcast(tensor, group=group, group_src=source)


def _joined(share: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    if group.size() == 1:
        return share.contiguous()
    shares = [torch.empty_like(share.contiguous()) for _ in range(group.size())]
    dist.all_gather(shares, share.contiguous(), group=group)
    return torch.cat(shares, dim)


def _drawn(name: str, parameter: Parameter, mesh: Mesh, seed: int) -> Tensor:
    dim = getattr(parameter, "partition_dim", WHOLE)
    size, group = list(parameter.shape), sharing_group(mesh, name)
    if dim != WHOLE:
        size[dim] *= group.size()
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    bound = 1 / math.sqrt(size[1])
    whole = torch.empty(size).uniform_(-bound, bound, generator=generator)
    return whole if dim == WHOLE else whole.chunk(group.size(), dim=dim)[group.rank()]
