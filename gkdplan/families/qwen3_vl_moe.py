"""Qwen3-VL with experts: the eyes of Qwen3-VL before the decoder of Qwen3 with experts."""

from gkdplan.families.keys import Keys
from gkdplan.families.mrope import plain_decoder
from gkdplan.families.qwen3_vl import THETA, read_vision

__all__ = ["ARCHITECTURE", "MODEL_TYPE", "read_vision", "text_config"]

MODEL_TYPE, ARCHITECTURE = "qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"

_OF_TEXT = "qwen3_vl_moe_text"


def text_config(keys: Keys) -> dict[str, object]:
    """The config of the decoder, as if it stood alone: Qwen3's with experts, whose weights of a
    token sum up to one whatever is written, with plain rotary positions."""
    text = keys.table("text_config")
    if text.get("model_type") != _OF_TEXT:
        keys.refuse("text_config", "the decoder is Qwen3-VL's own, with experts")
    return {**plain_decoder(keys, text, "qwen3_moe", THETA), "norm_topk_prob": True}
