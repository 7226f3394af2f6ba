"""The one place that knows whether this process computes on a CPU or on CUDA devices, and with
whose kernels.

On "nccl" megatron-core runs as it is, with its Transformer Engine spec or, of torch's kernels, with
the local spec and a norm and an attention of our own. On "gloo", where only the latter are, its
CUDA habits are shimmed.
"""

import contextlib
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    HAVE_TE,
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

from gkdplan.diagnostics import UserError
from gkdplan.runtime.machine.kernels import no_transformer_engine
from gkdplan.runtime.megatron import cpu_shims, without_transformer_engine
from gkdplan.runtime.megatron.latent_attention import latent_attention_spec
from gkdplan.runtime.megatron.layer_attention import LayerAttention
from gkdplan.runtime.megatron.load_balance import Router
from gkdplan.runtime.megatron.norms import AllHeadsNorm, RMSNorm, ZeroCenteredRMSNorm
from gkdplan.runtime.megatron.torch_modules import CoreAttention
from gkdplan.shape import ModelShape
from gkdplan.vocab import Kernels, Tier


def prepare(backend: str) -> None:
    """Ready this process for "gloo" or "nccl"; call it before the process group exists."""
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not HAVE_TE:
            without_transformer_engine.install()
    else:
        cpu_shims.install()


def device() -> torch.device:
    """Where this rank computes; needs the process group."""
    if _on_cuda():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def megatron_calls() -> contextlib.AbstractContextManager[Any]:
    """To be entered around schedules and optimizers, where megatron-core names "cuda" literally."""
    return contextlib.nullcontext() if _on_cuda() else cpu_shims.CudaAsCpu()


def config_overrides(backend: str, home: Tier) -> dict[str, Any]:
    """Fields of TransformerConfig for a model whose `home` is the device's memory or the host's.

    They are Megatron's own on GPUs; on the CPU there are no kernel fusions.
    """
    if backend == "nccl":
        return {"use_cpu_initialization": home is Tier.HOST}
    return {
        "use_cpu_initialization": True,
        "gradient_accumulation_fusion": False,
        "persist_layer_norm": False,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "masked_softmax_fusion": False,
        "apply_rope_fusion": False,
    }


def layer_specs(
    kernels: Kernels,
    shape: ModelShape,
    layers: Sequence[int],
    *,
    norms_apart: bool = False,
) -> TransformerBlockSubmodules:
    """The modules of these layers of a model, each with experts or without.

    With `norms_apart` no linear layer takes in the norm before it: its input is what it multiplies.
    Raises UserError where Transformer Engine's are asked for and cannot be imported: GK525.
    """
    norm = norm_class(kernels, shape)
    kinds = [None if moe is None else moe.num_experts for moe in map(shape.experts_of, layers)]
    specs = {kind: _layer_spec(kernels, shape, kind, norm, norms_apart) for kind in {*kinds}}
    return TransformerBlockSubmodules([specs[kind] for kind in kinds], layer_norm=norm)


def _layer_spec(
    kernels: Kernels,
    shape: ModelShape,
    num_experts: int | None,
    norm: type[torch.nn.Module],
    norms_apart: bool,
) -> ModuleSpec:
    """Of one layer, with so many experts or without."""
    if kernels is Kernels.TRANSFORMER_ENGINE:
        spec = get_gpt_layer_with_transformer_engine_spec(
            num_experts=num_experts, moe_grouped_gemm=True, qk_layernorm=shape.qk_norm
        )
        if norms_apart or shape.norms == "post":
            _take_norms_apart(spec, norm)
    else:
        spec = get_gpt_layer_local_spec(
            num_experts=num_experts, normalization="RMSNorm", qk_layernorm=shape.qk_norm
        )
        spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = norm
        spec.submodules.self_attention.submodules.core_attention = partial(
            CoreAttention, attention=shape.attention
        )
    _attend_by_layer(spec, shape)
    layer, attention = spec.submodules, spec.submodules.self_attention.submodules
    if shape.norms == "post":
        layer.input_layernorm = layer.pre_mlp_layernorm = IdentityOp
    if shape.qk_norm:
        attention.q_layernorm, attention.k_layernorm = _head_norms(norm, shape)
    if num_experts is not None and shape.moe is not None:
        layer.mlp.submodules.router = partial(Router, routing=shape.moe.routing)
    return spec


def norm_class(kernels: Kernels, shape: ModelShape) -> type[torch.nn.Module]:
    """What norms hidden states; Transformer Engine's reads from the config whether its weights are
    zero-centered. Raises UserError where it is asked for and cannot be imported: GK525."""
    if kernels is Kernels.TRANSFORMER_ENGINE:
        if not HAVE_TE:
            raise UserError(no_transformer_engine())
        from megatron.core.extensions.transformer_engine import TENorm

        return TENorm
    return ZeroCenteredRMSNorm if shape.zero_centered_norms else RMSNorm


def _head_norms(norm: type[torch.nn.Module], shape: ModelShape) -> tuple[Any, Any]:
    """Of queries and of keys."""
    if not shape.qk_norm_of_all_heads:
        return norm, norm
    heads = (shape.num_attention_heads, shape.num_kv_heads)
    query, key = (ModuleSpec(AllHeadsNorm, params={"num_heads": number}) for number in heads)
    return query, key


def _attend_by_layer(spec: ModuleSpec, shape: ModelShape) -> None:
    """Let each layer's attention know what its number means in the family."""
    attention = spec.submodules.self_attention
    if shape.latent is not None:
        spec.submodules.self_attention = latent_attention_spec(attention, shape, RMSNorm)
        return
    attention.module, attention.params = LayerAttention, {**attention.params, "shape": shape}


def fuse_updates(adam: torch.optim.Optimizer) -> None:
    """Let torch's AdamW, which Megatron takes where it finds no other, update in one kernel on
    CUDA: left alone it would make a copy of all second moments there."""
    if _on_cuda() and isinstance(adam, torch.optim.AdamW):
        for group in adam.param_groups:
            group |= {"fused": True, "foreach": False}


def _take_norms_apart(spec: ModuleSpec, norm: type[torch.nn.Module]) -> None:
    """The norm and Transformer Engine's linear layer in place of the layer that fuses both."""
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear

    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = norm
    layer.self_attention.submodules.linear_qkv = TEColumnParallelLinear
    layer.mlp.submodules.linear_fc1 = TEColumnParallelLinear


def _on_cuda() -> bool:
    return torch.distributed.get_backend() == "nccl"
