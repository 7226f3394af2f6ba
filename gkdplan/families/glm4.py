"""GLM-4, in both of its architectures: half of a head is rotated, in pairs of neighbours."""

from typing import Any

from gkdplan.attention import AttentionShape
from gkdplan.families.family import Family
from gkdplan.families.keys import Keys
from gkdplan.families.names import Names
from gkdplan.families.windows import refuse_windows
from gkdplan.shape import ModelShape

_REQUIRED = ("num_key_value_heads", "head_dim")


def _read(keys: Keys, num_layers: int) -> dict[str, Any]:
    refuse_windows(keys, num_layers)
    return {
        "attention": AttentionShape(rotary_in_pairs=True),
        "qkv_bias": keys.flag("attention_bias", True),
    }


def _write(shape: ModelShape) -> dict[str, object]:
    return {"attention_bias": shape.qkv_bias}


GLM = Family(
    "glm",
    "GlmForCausalLM",
    required=_REQUIRED,
    default_fraction=0.5,
    rotates_part=True,
    names=Names(fused_gate_up="mlp.gate_up_proj"),
    read=_read,
    write=_write,
)
GLM4 = Family(
    "glm4",
    "Glm4ForCausalLM",
    required=_REQUIRED,
    fixed={"norms": "sandwich"},
    default_fraction=0.5,
    rotates_part=True,
    names=Names(
        attention_output_norm="post_self_attn_layernorm",
        mlp_output_norm="post_mlp_layernorm",
        fused_gate_up="mlp.gate_up_proj",
    ),
    read=_read,
    write=_write,
)
