"""Which linear layers of a model get adapters, and when they add to its output."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor
from torch.nn import Module

from gkdplan.families.tensors import projections_of
from gkdplan.runplan.models import LoraPlan
from gkdplan.runtime.megatron.lora.dense import (
    Adapter,
    ColumnAdapter,
    RowAdapter,
    WholeAdapter,
)
from gkdplan.runtime.megatron.lora.experts import ExpertColumnAdapter, ExpertRowAdapter
from gkdplan.runtime.megatron.lora.parts import Part, parts_of
from gkdplan.shape import ModelShape

ADAPTER = "lora"
"""The name under which a linear layer holds its adapter."""
OF_LATENTS = {
    "q_proj": ("linear_q_proj", False),
    "q_a_proj": ("linear_q_down_proj", True),
    "q_b_proj": ("linear_q_up_proj", False),
    "kv_a_proj_with_mqa": ("linear_kv_down_proj", True),
    "kv_b_proj": ("linear_kv_up_proj", False),
}
"""The layers of attention from latents, and whether every tensor rank has all of them."""


def add_adapters(model: GPTModel, lora: LoraPlan, shape: ModelShape) -> None:
    """Freeze the model and give the linear layers of its decoder their adapters, allocated but not
    set: `adapters.draw_adapters` sets them. A norm of a layer's output comes after its adapter.

    The tensor degree divides the kv heads where q, k or v are targets. The embedding's output asks
    for a gradient, so that every layer is differentiated alike and recomputed layers are too.
    """
    model.requires_grad_(False)
    degree = model.config.tensor_model_parallel_size
    for layer in model.decoder.layers:
        for module, kind, parts in _linear_layers(layer, shape, degree):
            adapted = tuple(
                replace(part, target=lora.target_of(part.name))
                for part in parts
                if lora.target_of(part.name)
            )
            if adapted:
                adapter = kind(module.weight, model.config, lora, adapted)
                module.add_module(ADAPTER, adapter)
                module.register_forward_hook(_add_adapter, prepend=True)
    if model.pre_process:
        let_gradients_pass(model.embedding)


def let_gradients_pass(embedding: Module) -> None:
    """Let the output of a frozen embedding ask for a gradient."""
    embedding.register_forward_hook(_require_gradient)


def _linear_layers(
    layer: TransformerLayer, shape: ModelShape, degree: int
) -> Iterator[tuple[Module, type[Adapter], Iterator[Part]]]:
    """Those that can have an adapter, the kind of it, and the projections that they hold; a shared
    expert has none."""
    attention, mlp = layer.self_attention, layer.mlp
    if shape.latent is None:
        yield attention.linear_qkv, ColumnAdapter, _parts_of_heads(shape, degree)
    else:
        yield from _linear_layers_of_latents(attention, shape, degree)
    yield attention.linear_proj, RowAdapter, parts_of(1, o_proj=shape.hidden_size)
    if shape.moe is None or not layer.is_moe_layer:
        ffn = shape.ffn_hidden_size // degree
        yield mlp.linear_fc1, ColumnAdapter, parts_of(1, gate_proj=ffn, up_proj=ffn)
        yield mlp.linear_fc2, RowAdapter, parts_of(1, down_proj=shape.hidden_size)
        return
    ffn = shape.moe.expert_ffn_hidden_size // layer.config.expert_tensor_parallel_size
    for expert in mlp.experts.local_experts:
        yield expert.linear_fc1, ExpertColumnAdapter, parts_of(1, gate_proj=ffn, up_proj=ffn)
        yield expert.linear_fc2, ExpertRowAdapter, parts_of(1, down_proj=shape.hidden_size)


def _parts_of_heads(shape: ModelShape, degree: int) -> Iterator[Part]:
    return parts_of(
        shape.num_kv_heads // degree,
        q_proj=shape.query_size // shape.num_kv_heads,
        k_proj=shape.head_dim,
        v_proj=shape.head_dim,
    )


def _linear_layers_of_latents(
    attention: Module, shape: ModelShape, degree: int
) -> Iterator[tuple[Module, type[Adapter], Iterator[Part]]]:
    """To the latents, whole on every rank, and from them."""
    for name in projections_of(shape):
        if name not in OF_LATENTS:
            continue
        linear, is_whole = OF_LATENTS[name]
        num_rows, _ = shape.projection_size(name)
        width = num_rows if is_whole else num_rows // degree
        kind = WholeAdapter if is_whole else ColumnAdapter
        yield getattr(attention, linear), kind, parts_of(1, **{name: width})


def is_adapter(parameter: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return f".{ADAPTER}." in parameter


@contextlib.contextmanager
def adapters_off(chunks: Sequence[GPTModel]) -> Iterator[None]:
    """While entered the models compute what their frozen base does."""
    adapters = [m for chunk in chunks for m in chunk.modules() if isinstance(m, Adapter)]
    for adapter in adapters:
        adapter.is_on = False
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.is_on = True


def _add_adapter(module: Module, inputs: tuple[Tensor, ...], result: Any) -> Any:
    output, bias = result
    adapter = getattr(module, ADAPTER)
    return (adapter(inputs[0], output), bias) if adapter.is_on else result


def _require_gradient(_: Module, __: Any, embedded: Tensor) -> None:
    if torch.is_grad_enabled():
        embedded.requires_grad_()
