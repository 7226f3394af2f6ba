"""Gemma 2, and the text models of Gemma 3."""

from dataclasses import replace
from typing import Any

from gkdplan.attention import AttentionShape
from gkdplan.families.family import Family
from gkdplan.families.keys import Keys
from gkdplan.families.names import Names
from gkdplan.families.rope import MAX_THETA, written_rope
from gkdplan.families.windows import FULL, SLIDING, read_windows, written_windows
from gkdplan.shape import ModelShape

MAX_SOFTCAP = 1e6
LOCAL_THETA = 10_000.0
_NAMES = Names(
    attention_output_norm="post_attention_layernorm",
    mlp_input_norm="pre_feedforward_layernorm",
    mlp_output_norm="post_feedforward_layernorm",
)
_FIXED = {
    "norms": "sandwich",
    "zero_centered_norms": True,
    "scaled_embeddings": True,
    "activation": "gelu_tanh",
}
_ONLY = {"use_bidirectional_attention": (False, "a position sees those before it only")}
_ACTIVATION_KEYS = ("hidden_activation", "hidden_act")
_REQUIRED = ("num_key_value_heads", "head_dim", "query_pre_attn_scalar")


def _read_gemma2(keys: Keys, num_layers: int) -> dict[str, Any]:
    """Every second layer has the window, from the first on."""
    return _capped(keys, read_windows(keys, num_layers, lambda layer: layer % 2 == 0))


def _read_gemma3(keys: Keys, num_layers: int) -> dict[str, Any]:
    """Every layer but each sixth has the window, and rotates by a base of its own."""
    pattern = keys.count("sliding_window_pattern", 2**12, 6)
    windows = read_windows(keys, num_layers, lambda layer: (layer + 1) % pattern != 0)
    if windows.window is None:
        return _capped(keys, windows)
    return _capped(keys, replace(windows, sliding_rope_theta=_local_theta(keys)))


def _local_theta(keys: Keys) -> float:
    """transformers 4 writes `rope_local_base_freq`, transformers 5 a table of sliding layers."""
    rope = keys.inner("rope_parameters").inner(SLIDING)
    if not rope.values:
        return keys.number("rope_local_base_freq", 1.0, MAX_THETA, LOCAL_THETA)
    if rope.has("rope_type") and rope.values["rope_type"] != "default":
        rope.refuse("rope_type", "the frequencies of sliding layers are not scaled")
    return rope.number("rope_theta", 1.0, MAX_THETA, LOCAL_THETA)


def _capped(keys: Keys, attention: AttentionShape) -> dict[str, Any]:
    """With the scale and the bound of the scores, and the bound of the logits."""
    scale = keys.number("query_pre_attn_scalar", 1e-6, 1e6) ** -0.5
    softcap = keys.optional_number("attn_logit_softcapping", 1e-6, MAX_SOFTCAP)
    return {
        "attention": replace(attention, scale=scale, softcap=softcap),
        "logit_softcap": keys.optional_number("final_logit_softcapping", 1e-6, MAX_SOFTCAP),
    }


def _write_gemma2(shape: ModelShape) -> dict[str, object]:
    attention = shape.attention
    assert attention.scale is not None
    return {
        **written_windows(shape),
        "query_pre_attn_scalar": round(attention.scale**-2),
        "attn_logit_softcapping": attention.softcap,
        "final_logit_softcapping": shape.logit_softcap,
    }


def _write_gemma3(shape: ModelShape) -> dict[str, object]:
    rope = {"rope_type": "default", "rope_theta": shape.attention.sliding_rope_theta}
    full = written_rope(shape)
    return {**_write_gemma2(shape), "rope_parameters": {FULL: full, SLIDING: rope}}


GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    required=_REQUIRED,
    fixed=_FIXED,
    only=_ONLY,
    is_tied=True,
    activation_keys=_ACTIVATION_KEYS,
    names=_NAMES,
    read=_read_gemma2,
    write=_write_gemma2,
)
GEMMA3 = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    required=_REQUIRED,
    fixed={**_FIXED, "qk_norm": True},
    only=_ONLY,
    default_theta=1_000_000.0,
    has_rope_by_layer=True,
    is_tied=True,
    activation_keys=_ACTIVATION_KEYS,
    names=_NAMES,
    read=_read_gemma3,
    write=_write_gemma3,
)
