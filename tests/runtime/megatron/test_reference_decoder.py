"""The decoder that tests write out, against models of transformers with one of its features."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from reference_decoder import reference_logits
from tiny_models import LLAMA3_ROPE, SIZES, plan_of
from torch import Tensor
from transformers import (
    GlmConfig,
    GlmForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from gkdplan.attention import AttentionShape
from gkdplan.rope import LinearScaling, Llama3Scaling, LongRopeScaling, YarnScaling

UNTIED = SIZES | {"tie_word_embeddings": False}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "attention_factor": 1.3,
    "original_max_position_embeddings": 16,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 8.0],
    "attention_factor": 1.1,
    "original_max_position_embeddings": 16,
    "partial_rotary_factor": 0.5,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0}
PARTIAL = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
LONG_SCALING = LongRopeScaling((1.0, 1.5), (2.0, 8.0), 16, 1.1)
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "mistral": (
        MistralForCausalLM,
        MistralConfig(**UNTIED, sliding_window=7),
        {"attention": AttentionShape(window=7, sliding_layers=(0, 1, 2))},
    ),
    "smollm3": (
        SmolLM3ForCausalLM,
        SmolLM3Config(**UNTIED, no_rope_layers=[1, 0, 1], use_sliding_window=False),
        {"attention": AttentionShape(unrotated_layers=(1,)), "rope_theta": 2_000_000.0},
    ),
    "linear": (
        LlamaForCausalLM,
        LlamaConfig(**UNTIED, rope_parameters=LINEAR),
        {"rope_scaling": LinearScaling(8.0)},
    ),
    "llama3": (
        LlamaForCausalLM,
        LlamaConfig(**UNTIED, rope_parameters=LLAMA3_ROPE),
        {"rope_scaling": Llama3Scaling(4.0, 1.0, 2.0, 32)},
    ),
    "yarn": (
        LlamaForCausalLM,
        LlamaConfig(**UNTIED, rope_parameters=YARN),
        {"rope_scaling": YarnScaling(4.0, 16, 4.0, 1.0, 1.3, truncate=True)},
    ),
    "glm": (
        GlmForCausalLM,
        GlmConfig(**UNTIED, rope_parameters=PARTIAL, attention_bias=False),
        {"attention": AttentionShape(rotary_fraction=0.5, rotary_in_pairs=True)},
    ),
    "phi3": (
        Phi3ForCausalLM,
        Phi3Config(
            **UNTIED | {"hidden_size": 64},
            rope_parameters=LONG,
            original_max_position_embeddings=16,
            sliding_window=9,
        ),
        {
            "attention": AttentionShape(rotary_fraction=0.5, window=9, sliding_layers=(0, 1, 2)),
            "rope_scaling": LONG_SCALING,
        },
    ),
}


@pytest.mark.parametrize("num_tokens", [12, 40])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_those_of_transformers(case: str, num_tokens: int) -> None:
    """Of 12 tokens, fewer than longrope's original context, and of more."""
    family, config, changes = CASES[case]
    torch.manual_seed(1)
    config._attn_implementation = "eager"
    model = family(config).double().eval()
    for parameter in model.parameters():
        parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    shape = replace(plan_of("llama", 1).shape, **changes)
    tokens_BS = torch.arange(2 * num_tokens).view(2, num_tokens) * 7 % SIZES["vocab_size"]
    logits = reference_logits(_as_llama(model.state_dict()), shape, tokens_BS)
    torch.testing.assert_close(logits, model(tokens_BS).logits, rtol=1e-5, atol=2e-5)


def _as_llama(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fused projections taken apart."""
    heads, kv_heads = (SIZES[key] for key in ("num_attention_heads", "num_key_value_heads"))
    sizes = [SIZES["head_dim"] * num for num in (heads, kv_heads, kv_heads)]
    apart = {}
    for name, weight in weights.items():
        if "qkv_proj" in name:
            for part, share in zip("qkv", weight.split(sizes), strict=True):
                apart[name.replace("qkv_proj", f"{part}_proj")] = share
        elif "gate_up_proj" in name:
            for part, share in zip(("gate", "up"), weight.chunk(2), strict=True):
                apart[name.replace("gate_up_proj", f"{part}_proj")] = share
        else:
            apart[name] = weight
    return apart
