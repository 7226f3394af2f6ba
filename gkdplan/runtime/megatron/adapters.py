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
from torch.nn import Parameter

from gkdplan.runplan.model import ModelPlan
from gkdplan.runtime.megatron.full_tensors import full_tensors
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import num_model_layers, stage_of_layer
from gkdplan.runtime.megatron.parameters import adapter_parameters
from gkdplan.shape import parts_of


@dataclass(frozen=True, slots=True)
class _Home:
    """The linear layer of Megatron's that holds a projection, and its block in the checkpoint."""

    layer: str
    block: str
    is_row_parallel: bool


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
    assert plan.lora is not None
    own = dict(adapter_parameters(chunks, plan, mesh))
    for layer in range(num_model_layers(plan)):
        for target in plan.lora.targets:
            home = f"model.layers.{layer}.{_HOMES[target].block}.{target}"
            yield home, *_whole_adapter(own, plan, mesh, layer, target)


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
    for name, weight in full_tensors(chunks, plan, mesh):
        *prefix, target, kind = name.split(".")
        if target in plan.lora.targets and kind == "weight":
            a, b = _whole_adapter(own, plan, mesh, int(prefix[2]), target)
            weight = (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
        yield name, weight


def _whole_adapter(
    own: dict[str, Parameter], plan: ModelPlan, mesh: Mesh, layer: int, target: str
) -> tuple[Tensor, Tensor]:
    """A and B of one projection, from the tensor ranks of the stage that holds it, on all ranks."""
    assert plan.lora is not None
    home, rank, like = _HOMES[target], plan.lora.rank, next(iter(own.values()))
    num_outputs, num_inputs = plan.shape.projection_size(target)
    a, b = like.new_empty(rank, num_inputs), like.new_empty(num_outputs, rank)
    stage = stage_of_layer(plan, layer)
    if stage == mesh.pipeline_rank:
        stem = f"decoder.layers.{layer}.{home.layer}.lora"
        beside = [t for t in plan.lora.targets if _HOMES[t] is home]
        share = own[f"{stem}.a"].chunk(len(beside))[beside.index(target)]
        a = _joined(share, mesh, 1) if home.is_row_parallel else share.contiguous()
        factors = [own[f"{stem}.b.{part}"] for part in parts_of(target)]
        if not home.is_row_parallel:
            factors = [_joined(factor, mesh, 0) for factor in factors]
        b = torch.cat(factors)
    for tensor in (a, b):
        if mesh.pipeline_size > 1:
            dist.broadcast(tensor, group=mesh.pipeline_group, group_src=stage)
    return a, b


def _joined(share: Tensor, mesh: Mesh, dim: int) -> Tensor:
    if mesh.tensor_size == 1:
        return share.contiguous()
    shares = [torch.empty_like(share.contiguous()) for _ in range(mesh.tensor_size)]
    dist.all_gather(shares, share.contiguous(), group=mesh.tensor_group)
    return torch.cat(shares, dim)


def _drawn(name: str, parameter: Parameter, mesh: Mesh, seed: int) -> Tensor:
    is_cut = getattr(parameter, "tensor_model_parallel", False)
    size = list(parameter.shape)
    if is_cut:
        size[parameter.partition_dim] *= mesh.tensor_size
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    bound = 1 / math.sqrt(size[1])
    whole = torch.empty(size).uniform_(-bound, bound, generator=generator)
    if not is_cut:
        return whole
    return whole.chunk(mesh.tensor_size, dim=parameter.partition_dim)[mesh.tensor_rank]
