"""The vision part of Qwen3-VL's config.json, and the config of the decoder behind it."""

from math import isqrt

from gkdplan.families.keys import Keys
from gkdplan.families.mrope import (
    check_sizes,
    layers_of,
    plain_decoder,
    refuse_others,
    rope_of,
    rotary_sections,
)
from gkdplan.shape import ModelShape
from gkdplan.vision import Qwen3Vision

MODEL_TYPE, ARCHITECTURE = "qwen3_vl", "Qwen3VLForConditionalGeneration"

_OF_TEXT = "qwen3_vl_text"
THETA = 500_000.0
"""Where a config leaves the base of the rotary positions out."""
_ONLY_OF_TOWER: dict[str, tuple[object, str]] = {
    "hidden_act": ("gelu_pytorch_tanh", "the tower's activation is GELU by its tanh"),
    "in_channels": (3, "images have three colours"),
}


def text_config(keys: Keys) -> dict[str, object]:
    """The config of the decoder, as if it stood alone: Qwen3's, with plain rotary positions."""
    text = keys.table("text_config")
    if text.get("model_type") != _OF_TEXT:
        keys.refuse("text_config", "the decoder is Qwen3-VL's own")
    return plain_decoder(keys, text, "qwen3", THETA)


def read_vision(keys: Keys, text: ModelShape) -> Qwen3Vision:
    """The tower and mergers before a decoder; findings are left in `keys` (GK104, GK105)."""
    tower, rope = keys.inner("vision_config"), rope_of(keys)
    refuse_others(tower, _ONLY_OF_TOWER)
    if rope.values.get("mrope_interleaved", True) is not True:
        rope.refuse("mrope_interleaved", "pairs turn by time, row and column in turn")
    vision = Qwen3Vision(
        hidden_size=tower.count("hidden_size", 2**16, 1152),
        num_layers=tower.count("depth", 2**10, 27),
        num_heads=tower.count("num_heads", 2**10, 16),
        ffn_hidden_size=tower.count("intermediate_size", 2**20, 4304),
        patch_size=tower.count("patch_size", 2**10, 16),
        temporal_patch_size=tower.count("temporal_patch_size", 2**6, 2),
        merge_size=tower.count("spatial_merge_size", 2**6, 2),
        output_size=tower.count("out_hidden_size", 2**20, 3584),
        rotary_sections=rotary_sections(keys),
        image_token_id=keys.count("image_token_id", 2**24, 151655),
        num_positions=tower.count("num_position_embeddings", 2**20, 2304),
        deep_layers=layers_of(tower, "deepstack_visual_indexes", [8, 16, 24]),
    )
    if not keys.findings:
        check_sizes(keys, vision, text)
        _check_depth(keys, vision, text)
    return vision


def _check_depth(keys: Keys, vision: Qwen3Vision, text: ModelShape) -> None:
    deep = vision.deep_layers
    if len({*deep}) < len(deep) or any(not 0 <= layer < vision.num_layers for layer in deep):
        keys.wrong(
            f"`vision_config.deepstack_visual_indexes` = {list(deep)} are no layers of the tower's "
            f"{vision.num_layers}"
        )
    if list(deep) != sorted(deep):
        keys.wrong("`vision_config.deepstack_visual_indexes` do not rise")
    if len(deep) > text.num_layers:
        keys.wrong(
            f"the tower speaks to {len(deep)} layers of the decoder, which has {text.num_layers}"
        )
    if isqrt(vision.num_positions) ** 2 != vision.num_positions:
        keys.wrong(f"`vision_config.num_position_embeddings` = {vision.num_positions} is no square")
