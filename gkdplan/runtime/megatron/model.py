"""A ModelPlan as a Megatron GPTModel: every field of the shape has one place in the config."""

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import silu

from gkdplan.runplan.model import AxisDegrees, ModelPlan
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.vocab import Dtype, Tier

TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16}


def build_model(plan: ModelPlan, degrees: AxisDegrees, mesh: Mesh, *, trainable: bool) -> GPTModel:
    """This rank's shard of the model, in `plan.dtype`.

    It is built on the mesh's device; with `plan.offload` on the host it is built in host memory,
    and no part of it has been on the device.

    The weights are allocated but not set: `weights.load_weights` or `weights.draw_weights` sets
    them all. With `trainable` false no parameter asks for a gradient and the model is in eval mode.
    """
    shape, num_layers = plan.shape, num_model_layers(plan)
    config = transformer_config(plan, degrees)
    model = GPTModel(
        config,
        platform.layer_spec(shape, config),
        vocab_size=plan.padded_vocab_size,
        max_sequence_length=shape.max_position_embeddings,
        share_embeddings_and_output_weights=shape.tied_embeddings,
        position_embedding_type="rope",
        rotary_base=shape.rope_theta,
    )
    assert len(model.decoder.layers) == num_layers
    if shape.rope_scaling is not None:
        rotary = model.rotary_pos_emb
        rotary.inv_freq = rotary._apply_scaling(rotary.inv_freq, *shape.rope_scaling)
    _mark_shards(model)
    model.requires_grad_(trainable).train(trainable)
    is_there = plan.offload is Tier.HOST or mesh.device.type == "cpu"
    return model if is_there else model.to(mesh.device)


def num_model_layers(plan: ModelPlan) -> int:
    """Layers that are built: the kept ones of the checkpoint's, or all."""
    return plan.shape.num_layers if plan.keep_layers is None else len(plan.keep_layers)


def transformer_config(plan: ModelPlan, degrees: AxisDegrees) -> TransformerConfig:
    """Megatron's config for the plan: losses are sums, so `calculate_per_token_loss` is on."""
    shape, dtype = plan.shape, TORCH_DTYPES[plan.dtype]
    return TransformerConfig(
        num_layers=num_model_layers(plan),
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_kv_heads,
        kv_channels=shape.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=shape.norm_eps,
        gated_linear_unit=True,
        activation_func=silu,
        add_bias_linear=False,
        add_qkv_bias=shape.qkv_bias,
        qk_layernorm=shape.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        attention_softmax_in_fp32=True,
        tensor_model_parallel_size=degrees.tensor,
        sequence_parallel=degrees.sequence and degrees.tensor > 1,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        perform_initialization=False,
        calculate_per_token_loss=True,
        **platform.config_overrides(torch.distributed.get_backend(), plan.offload),
    )


def _mark_shards(model: GPTModel) -> None:
    """Tell sharded weights from replicated ones, which the gradient's norm must count once.

    Megatron marks them while it initialises weights (megatron/core/tensor_parallel/layers.py),
    which this model skips.
    """
    for module in model.modules():
        dim = 1 if isinstance(module, RowParallelLinear) else 0
        sharded = (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding)
        if isinstance(module, sharded) and module.weight is not None:
            set_tensor_model_parallel_attributes(module.weight, True, dim, 1)
