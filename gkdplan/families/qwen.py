"""Qwen2 and 2.5, Qwen3, and their mixtures of experts."""

from typing import Any

from gkdplan.families.experts import QWEN2, QWEN3
from gkdplan.families.family import Family
from gkdplan.families.keys import Keys
from gkdplan.families.windows import read_windows, written_windows
from gkdplan.shape import ModelShape

MAX_LAYERS = 2**12


def _read(keys: Keys, num_layers: int) -> dict[str, Any]:
    """The layers from `max_window_layers` on have the window, where it is used."""
    is_used = keys.flag("use_sliding_window", False)
    first = keys.count("max_window_layers", MAX_LAYERS, num_layers) if is_used else num_layers
    windows = read_windows(keys, num_layers, lambda layer: layer >= first, is_used=is_used)
    return {"attention": windows}


def _write(shape: ModelShape) -> dict[str, object]:
    if shape.attention.window is None:
        return {"use_sliding_window": False}
    first = min(shape.attention.sliding_layers)
    return {"use_sliding_window": True, "max_window_layers": first, **written_windows(shape)}


QWEN2_DENSE = Family(
    "qwen2", "Qwen2ForCausalLM", fixed={"qkv_bias": True}, read=_read, write=_write
)
QWEN3_DENSE = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    required=("num_key_value_heads", "head_dim"),
    fixed={"qk_norm": True},
    read=_read,
    write=_write,
)
QWEN2_MOE = Family(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    fixed={"qkv_bias": True},
    only={"qkv_bias": (True, "queries, keys and values have a bias")},
    experts=QWEN2,
    read=_read,
    write=_write,
)
QWEN3_MOE = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    fixed={"qk_norm": True},
    experts=QWEN3,
    read=_read,
    write=_write,
)
