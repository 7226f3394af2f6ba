"""The vision part of Qwen2.5-VL's config.json, and the config of the decoder behind it."""

from gkdplan.families.keys import Keys
from gkdplan.families.mrope import (
    check_sizes,
    layers_of,
    plain_decoder,
    refuse_others,
    rotary_sections,
)
from gkdplan.shape import ModelShape
from gkdplan.vision import QwenVision

MODEL_TYPE, ARCHITECTURE = "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"

_OF_TEXT = "qwen2_5_vl_text"
_THETA = 1_000_000.0
_ONLY_OF_TOWER: dict[str, tuple[object, str]] = {
    "hidden_act": ("silu", "the tower's MLP is gated by SiLU"),
    "in_channels": (3, "images have three colours"),
    "in_chans": (3, "images have three colours"),
    "rms_norm_eps": (1e-6, "the tower's norms have that epsilon, whatever is written"),
}


def text_config(keys: Keys) -> dict[str, object]:
    """The config of the decoder, as if it stood alone: Qwen2's, with plain rotary positions.

    The hub's files have its keys beside `vision_config`, those of transformers 5 in `text_config`.
    """
    inner = keys.table("text_config")
    if inner and inner.get("model_type") != _OF_TEXT:
        keys.refuse("text_config", "the decoder is Qwen2.5-VL's own")
    text = inner if inner else {**keys.values, "architectures": None}
    return plain_decoder(keys, text, "qwen2", _THETA)


def read_vision(keys: Keys, text: ModelShape) -> QwenVision:
    """The tower and merger before a decoder; findings are left in `keys` (GK104, GK105)."""
    tower = keys.inner("vision_config")
    refuse_others(tower, _ONLY_OF_TOWER)
    vision = QwenVision(
        hidden_size=tower.count("hidden_size", 2**16),
        num_layers=tower.count("depth", 2**10, 32),
        num_heads=tower.count("num_heads", 2**10, 16),
        ffn_hidden_size=tower.count("intermediate_size", 2**20, 3420),
        patch_size=tower.count("patch_size", 2**10, 14),
        temporal_patch_size=tower.count("temporal_patch_size", 2**6, 2),
        merge_size=tower.count("spatial_merge_size", 2**6, 2),
        window_size=tower.count("window_size", 2**16, 112),
        full_layers=layers_of(tower, "fullatt_block_indexes", [7, 15, 23, 31]),
        output_size=tower.count("out_hidden_size", 2**20, 3584),
        rotary_sections=rotary_sections(keys),
        image_token_id=keys.count("image_token_id", 2**24, 151655),
    )
    if not keys.findings:
        _check_window(keys, vision)
        check_sizes(keys, vision, text)
    return vision


def _check_window(keys: Keys, vision: QwenVision) -> None:
    side = vision.patch_size * vision.merge_size
    if vision.window_size < side:
        keys.wrong(
            f"`vision_config.window_size` = {vision.window_size} is less than the {side} pixels a "
            "side of a token"
        )
