"""Tiny Hugging Face models with random weights, and the plans that describe them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from gkdplan.facts.config import read_shape
from gkdplan.planner.memory.batch import Batch
from gkdplan.runplan.layout import AxisDegrees, Layout, RankClass
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.megatron import mesh as mesh_module
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.forward import response_hidden
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import build_model
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype, Kernels, Tier

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 32,
}
SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
WITHOUT_HEAD_DIM = {k: v for k, v in SIZES.items() if k != "head_dim"} | {"hidden_size": 64}
PLAIN_GEMMA = {
    "query_pre_attn_scalar": 8,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "sliding_window": 64,
    "layer_types": ["full_attention"] * 3,
}
LOCAL = {"rope_type": "default", "rope_theta": 100.0}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 8.0],
    "original_max_position_embeddings": 16,
    "partial_rotary_factor": 0.5,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "beta_fast": 4.0,
    "attention_factor": 1.3,
    "original_max_position_embeddings": 32,
}
DEEP = SIZES | {"num_hidden_layers": 4, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Tiny:
    """A family with the switch that makes it interesting."""

    config: Any
    model: type[PreTrainedModel]


TINY: dict[str, Tiny] = {
    "llama": Tiny(LlamaConfig(**SIZES, tie_word_embeddings=False), LlamaForCausalLM),
    "llama-tied": Tiny(LlamaConfig(**SIZES, tie_word_embeddings=True), LlamaForCausalLM),
    "llama-one-kv-head": Tiny(
        LlamaConfig(**SIZES | {"num_key_value_heads": 1}, tie_word_embeddings=True),
        LlamaForCausalLM,
    ),
    "llama3-rope": Tiny(
        LlamaConfig(**SIZES, tie_word_embeddings=False, rope_parameters=LLAMA3_ROPE),
        LlamaForCausalLM,
    ),
    "qwen2": Tiny(Qwen2Config(**SIZES, tie_word_embeddings=False), Qwen2ForCausalLM),
    "qwen3": Tiny(Qwen3Config(**SIZES, tie_word_embeddings=True), Qwen3ForCausalLM),
    "olmo2": Tiny(Olmo2Config(**SIZES, tie_word_embeddings=False), Olmo2ForCausalLM),
    "gemma2-plain": Tiny(
        Gemma2Config(**SIZES, **PLAIN_GEMMA, tie_word_embeddings=True), Gemma2ForCausalLM
    ),
    "phi3": Tiny(Phi3Config(**WITHOUT_HEAD_DIM), Phi3ForCausalLM),
    "phi3-long": Tiny(
        Phi3Config(
            **WITHOUT_HEAD_DIM,
            rope_parameters=LONG,
            original_max_position_embeddings=16,
            sliding_window=9,
        ),
        Phi3ForCausalLM,
    ),
    "mistral": Tiny(
        MistralConfig(**SIZES, sliding_window=7, tie_word_embeddings=False), MistralForCausalLM
    ),
    "qwen2-yarn": Tiny(Qwen2Config(**SIZES, rope_parameters=YARN), Qwen2ForCausalLM),
    "smollm3": Tiny(
        SmolLM3Config(**SIZES, no_rope_layers=[1, 1, 0], tie_word_embeddings=True),
        SmolLM3ForCausalLM,
    ),
    "glm4": Tiny(Glm4Config(**SIZES, attention_bias=True), Glm4ForCausalLM),
    "gemma2": Tiny(
        Gemma2Config(
            **SIZES,
            query_pre_attn_scalar=16,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
            sliding_window=7,
            tie_word_embeddings=True,
        ),
        Gemma2ForCausalLM,
    ),
    "gemma3": Tiny(
        Gemma3TextConfig(
            **SIZES,
            query_pre_attn_scalar=16,
            sliding_window=7,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={"sliding_attention": LOCAL, "full_attention": LINEAR},
            tie_word_embeddings=True,
        ),
        Gemma3ForCausalLM,
    ),
    "mixtral": Tiny(
        MixtralConfig(**DEEP, num_local_experts=4, tie_word_embeddings=False),
        MixtralForCausalLM,
    ),
    "qwen2-moe": Tiny(
        Qwen2MoeConfig(
            **DEEP,
            num_experts=4,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=24,
            norm_topk_prob=False,
            tie_word_embeddings=False,
        ),
        Qwen2MoeForCausalLM,
    ),
    "qwen3-moe-tied": Tiny(
        Qwen3MoeConfig(
            **DEEP,
            num_experts=4,
            moe_intermediate_size=16,
            norm_topk_prob=True,
            tie_word_embeddings=True,
        ),
        Qwen3MoeForCausalLM,
    ),
    "qwen3-moe-mixed": Tiny(
        Qwen3MoeConfig(
            **DEEP,
            num_experts=4,
            moe_intermediate_size=16,
            decoder_sparse_step=2,
            mlp_only_layers=[1],
            tie_word_embeddings=False,
        ),
        Qwen3MoeForCausalLM,
    ),
    "olmoe": Tiny(
        OlmoeConfig(
            **WITHOUT_HEAD_DIM | {"num_hidden_layers": 4, "num_experts_per_tok": 2},
            num_experts=4,
            tie_word_embeddings=False,
        ),
        OlmoeForCausalLM,
    ),
}
IN_EVERY_LAYER = ("mixtral", "qwen2-moe", "qwen3-moe-tied", "olmoe")
LATENTS = {key: value for key, value in DEEP.items() if key != "head_dim"} | {
    "num_key_value_heads": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "kv_lora_rank": 12,
    "moe_intermediate_size": 16,
    "n_shared_experts": 2,
    "n_routed_experts": 8,
    "first_k_dense_replace": 1,
    "tie_word_embeddings": False,
}
STRETCHED = YARN | {"attention_factor": None, "mscale": 0.9, "mscale_all_dim": 0.7}
TINY["deepseek-v2-lite"] = Tiny(
    DeepseekV2Config(
        **LATENTS,
        q_lora_rank=None,
        topk_method="greedy",
        routed_scaling_factor=1.0,
        rope_parameters=STRETCHED,
    ),
    DeepseekV2ForCausalLM,
)
TINY["deepseek-v2"] = Tiny(
    DeepseekV2Config(
        **LATENTS,
        q_lora_rank=20,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=4.0,
    ),
    DeepseekV2ForCausalLM,
)
TINY["deepseek-v3"] = Tiny(
    DeepseekV3Config(
        **LATENTS | {"num_experts_per_tok": 3},
        q_lora_rank=20,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
        rope_parameters=STRETCHED,
    ),
    DeepseekV3ForCausalLM,
)
TINY["deepseek-v3-dense"] = Tiny(
    DeepseekV3Config(
        **LATENTS | {"num_hidden_layers": 3, "first_k_dense_replace": 3},
        q_lora_rank=20,
        n_group=4,
        topk_group=2,
        rope_parameters=STRETCHED,
    ),
    DeepseekV3ForCausalLM,
)
DEEPSEEK = ("deepseek-v2-lite", "deepseek-v2", "deepseek-v3")
WITH_EXPERTS = (*IN_EVERY_LAYER, *DEEPSEEK, "qwen3-moe-mixed")
"""The last has them in its fourth layer alone: of two stages the first has none."""


def save_tiny(name: str, directory: Path) -> Path:
    """Write a random model of the family, norms and biases too, and a stand-in for a tokenizer."""
    torch.manual_seed(sum(map(ord, name)))
    model, shape = TINY[name].model(TINY[name].config).float(), shape_of(name)
    with torch.no_grad():
        biases = (row for row in model.named_buffers() if row[0].endswith("correction_bias"))
        for parameter_name, parameter in (*model.named_parameters(), *biases):
            if parameter.dim() == 1:
                is_one = "norm" in parameter_name and not shape.zero_centered_norms
                centre = 1.0 if is_one else 0.0
                parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(directory / name)
    (directory / name / "tokenizer.json").write_text("{}")
    return directory / name


def load_hf(name: str, directory: Path, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The reference model, on the eager attention of transformers."""
    return TINY[name].model.from_pretrained(
        directory / name,
        dtype=dtype,
        attn_implementation="eager",
        experts_implementation="eager",
    )


def shape_of(name: str) -> ModelShape:
    """As facts read it from the family's config."""
    shape, findings = read_shape(json.loads(TINY[name].config.to_json_string()), name)
    assert shape is not None, findings
    return shape


def plan_of(name: str, tensor: int, **changes: Any) -> ModelPlan:
    """A ModelPlan for the family, its vocabulary padded for `tensor` ranks."""
    config, shape = TINY[name].config, shape_of(name)
    if changes.get("keep_layers"):
        shape = shape.keeping(changes["keep_layers"])
    multiple = 128 * tensor
    plan = ModelPlan(
        model=name,
        revision=None,
        family=config.model_type,
        num_parameters=shape.num_parameters,
        shape=shape,
        dtype=Dtype.FP32,
        padded_vocab_size=-(-config.vocab_size // multiple) * multiple,
        init="pretrained",
        keep_layers=None,
        offload=Tier.DEVICE,
        stage_layers=((shape.num_layers,),),
    )
    return replace(plan, **changes)


def hidden_states(model: GPTModel, tokens_BS: torch.Tensor) -> torch.Tensor:
    """The final hidden states of all tokens, [B, S, H]."""
    every_token = torch.arange(tokens_BS.numel(), device=tokens_BS.device)
    return response_hidden(model, tokens_BS, every_token).unflatten(0, tokens_BS.shape)


def deep(plan: ModelPlan, num_layers: int) -> ModelPlan:
    """The same model with another number of layers, on one stage."""
    shape = plan.shape.with_layers(num_layers)
    return replace(plan, shape=shape, stage_layers=((num_layers,),))


def saved_bytes(plan: ModelPlan, degrees: AxisDegrees, mesh: Mesh, batch: Batch) -> int:
    """Bytes of the storages that autograd saves in a forward, parameters left out."""
    model = build_model(plan, degrees, mesh, trainable=True)
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = storage
        return tensor

    tokens_BS = torch.zeros(batch.rows, batch.tokens, dtype=torch.int64, device=mesh.device)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, platform.megatron_calls():
        hidden_states(model, tokens_BS)
    return sum(storage.nbytes() for storage in saved.values())


def start_mesh(degrees: AxisDegrees, seed: int = 7) -> Mesh:
    """The mesh of a layout over the running group, on torch's kernels; replaces an earlier one."""
    backend = torch.distributed.get_backend()
    platform.prepare(backend)
    mesh_module.close_mesh()
    world_size = torch.distributed.get_world_size()
    everyone = RankClass(ranks=((0, world_size),), stage=0)
    layout = Layout(
        "device", backend, Kernels.TORCH, 1, world_size, world_size, degrees, degrees, (everyone,)
    )
    return mesh_module.init_mesh(layout, seed)
