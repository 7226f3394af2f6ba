"""A ModelPlan as Megatron's config: every field of the shape has one place there."""

from functools import partial
from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import gelu, silu

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import ModelPlan, Recompute
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.experts import expert_fields
from gkdplan.runtime.megatron.mesh import num_chunks_of_stages
from gkdplan.shape import AttentionShape, ModelShape
from gkdplan.vision import PatchedVision
from gkdplan.vocab import Dtype

ACTIVATIONS = {"silu": silu, "gelu_tanh": partial(gelu, approximate="tanh")}
TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16}


def sections_of(shape: ModelShape) -> tuple[int, ...] | None:
    """Pairs of a head's coordinates that turn by time, row and column; None where all turn by one
    position."""
    vision = shape.vision
    return vision.rotary_sections if isinstance(vision, PatchedVision) else None


def transformer_config(plan: ModelPlan, degrees: AxisDegrees) -> TransformerConfig:
    """Megatron's config for the plan: losses are sums, so `calculate_per_token_loss` is on."""
    shape, dtype = plan.shape, TORCH_DTYPES[plan.dtype]
    return TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_kv_heads,
        kv_channels=shape.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=shape.norm_eps,
        gated_linear_unit=True,
        activation_func=ACTIVATIONS[shape.activation],
        add_bias_linear=False,
        add_qkv_bias=shape.qkv_bias,
        qk_layernorm=shape.qk_norm and not shape.qk_norm_of_all_heads,
        layernorm_zero_centered_gamma=shape.zero_centered_norms,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        attention_softmax_in_fp32=True,
        **_attention(shape.attention, shape.num_layers),
        mrope_section=sections_of(shape),
        tensor_model_parallel_size=degrees.tensor,
        sequence_parallel=degrees.sequence and degrees.tensor > 1,
        context_parallel_size=degrees.context,
        pipeline_model_parallel_size=degrees.pipeline,
        pipeline_model_parallel_layout=_pipeline_layout(plan),
        virtual_pipeline_model_parallel_size=num_chunks_of_stages(degrees),
        overlap_p2p_comm=degrees.virtual_pipeline > 1,
        batch_p2p_comm=degrees.virtual_pipeline == 1,
        deallocate_pipeline_outputs=True,
        **_recompute(plan.recompute),
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        perform_initialization=False,
        calculate_per_token_loss=True,
        **expert_fields(plan, degrees),
        **platform.config_overrides(torch.distributed.get_backend(), plan.offload),
    )


def _attention(attention: AttentionShape, num_layers: int) -> dict[str, Any]:
    """Megatron's fields; its windows count the positions before one's own. `RotaryAngles` and
    `LayerAttention` know the rest."""
    fields = {
        "softmax_scale": attention.scale,
        "rotary_interleaved": attention.rotary_in_pairs,
    }
    if attention.window is None:
        return fields
    is_sliding = [int(layer in attention.sliding_layers) for layer in range(num_layers)]
    return {
        **fields,
        "window_size": (attention.window - 1, 0),
        "window_attn_skip_freq": is_sliding,
    }


def _pipeline_layout(plan: ModelPlan) -> list[list[str]] | None:
    """Megatron's name for each layer of each chunk, chunks in the order of the model."""
    if len(plan.stage_layers) == 1:
        return None
    chunks = [["decoder"] * num_layers for num_layers in layers_of_chunks(plan)]
    return [["embedding", *chunks[0]], *chunks[1:-1], [*chunks[-1], "loss"]]


def layers_of_chunks(plan: ModelPlan) -> list[int]:
    """Layers of each chunk, in the order of the model."""
    return [num for of_stages in zip(*plan.stage_layers, strict=True) for num in of_stages]


def _recompute(recompute: Recompute) -> dict[str, Any]:
    """Megatron's fields; what is kept for the recomputation is not spread over the tensor axis."""
    if recompute.granularity == "none":
        return {}
    modules = list(recompute.modules) or None
    return {
        "recompute_granularity": recompute.granularity,
        "recompute_method": recompute.method,
        "recompute_num_layers": recompute.num_layers,
        "recompute_modules": modules if recompute.granularity == "selective" else None,
        "distribute_saved_activations": False,
    }
