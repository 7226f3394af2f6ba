"""The vision part of Qwen2.5-VL's config.json, and the config of the decoder behind it."""

from collections.abc import Mapping

from gkdplan.families.keys import Keys
from gkdplan.shape import ModelShape
from gkdplan.vision import PatchedVision, QwenVision

MODEL_TYPE, ARCHITECTURE = "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"

_OF_TEXT = "qwen2_5_vl_text"
_MROPE_TYPES = (None, "mrope", "default")
_THETA = 1_000_000.0
_ONLY_OF_TOWER: dict[str, tuple[object, str]] = {
    "hidden_act": ("silu", "the tower's MLP is gated by SiLU"),
    "in_channels": (3, "images have three colours"),
    "in_chans": (3, "images have three colours"),
    "rms_norm_eps": (1e-6, "the tower's norms have that epsilon, whatever is written"),
}
_ROTARY_OF_TOWER: dict[str, tuple[object, str]] = {
    "rope_type": ("axial", "the tower turns by row and column"),
    "rope_theta": (10_000, "the tower's rotary positions have that base"),
}
_NUM_SECTIONS = 3
"""Time, row and column."""


def text_config(keys: Keys) -> dict[str, object]:
    """The config of the decoder, as if it stood alone: Qwen2's, with plain rotary positions.

    The hub's files have its keys beside `vision_config`, those of transformers 5 in `text_config`.
    """
    inner = keys.table("text_config")
    if inner and inner.get("model_type") != _OF_TEXT:
        keys.refuse("text_config", "the decoder is Qwen2.5-VL's own")
    text = dict(inner) if inner else {**keys.values, "architectures": None}
    rope = rope_of(keys).values
    theta = rope.get("rope_theta", text.get("rope_theta", _THETA))
    tied = keys.values.get("tie_word_embeddings") or text.get("tie_word_embeddings") or False
    for key in ("rope_scaling", "rope_parameters", "text_config", "vision_config"):
        text.pop(key, None)
    return {**text, "model_type": "qwen2", "rope_theta": theta, "tie_word_embeddings": tied}


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


def rope_of(keys: Keys) -> Keys:
    """The table of rotary positions, where this version of transformers writes it."""
    place = keys.inner("text_config") if keys.has("text_config") else keys
    return place.inner("rope_parameters" if place.has("rope_parameters") else "rope_scaling")


def rotary_sections(keys: Keys) -> tuple[int, ...]:
    """Pairs of a head that turn by time, row and column."""
    rope = rope_of(keys)
    kinds: Mapping[str, object] = rope.values
    for key in ("type", "rope_type"):
        if kinds.get(key) not in _MROPE_TYPES:
            rope.refuse(key, "rotary positions are of time, row and column, unscaled")
    sections = rope.numbers("mrope_section", 1, 2**12, _NUM_SECTIONS)
    if any(section != int(section) for section in sections):
        rope.refuse("mrope_section", "a section is a whole number of pairs")
    return tuple(map(int, sections))


def refuse_others(tower: Keys, only: Mapping[str, tuple[object, str]]) -> None:
    """Of a tower's keys and of its rotary positions those of another value than the one."""
    for place, known in ((tower, only), (tower.inner("rope_parameters"), _ROTARY_OF_TOWER)):
        for key, (value, why) in known.items():
            if place.has(key) and place.values[key] != value:
                place.refuse(key, why)


def layers_of(tower: Keys, key: str, default: list[int]) -> tuple[int, ...]:
    """A list of numbers of the tower's layers."""
    layers = tower.values.get(key, default)
    if isinstance(layers, list) and all(type(layer) is int for layer in layers):
        return tuple(layers)
    tower.refuse(key, "it is a list of numbers of layers")
    return ()


def _check_window(keys: Keys, vision: QwenVision) -> None:
    side = vision.patch_size * vision.merge_size
    if vision.window_size < side:
        keys.wrong(
            f"`vision_config.window_size` = {vision.window_size} is less than the {side} pixels a "
            "side of a token"
        )


def check_sizes(keys: Keys, vision: PatchedVision, text: ModelShape) -> None:
    """What contradicts itself or the decoder."""
    if vision.hidden_size % vision.num_heads:
        keys.wrong(
            f"`vision_config.hidden_size` = {vision.hidden_size} is not a multiple of "
            f"`vision_config.num_heads` = {vision.num_heads}"
        )
    elif vision.hidden_size // vision.num_heads % 4:
        keys.wrong(
            f"a head of the tower has {vision.hidden_size // vision.num_heads} coordinates, no "
            "multiple of 4, and pairs of them turn by row and by column"
        )
    if vision.output_size != text.hidden_size:
        keys.wrong(
            f"`vision_config.out_hidden_size` = {vision.output_size} is not the decoder's "
            f"`hidden_size` = {text.hidden_size}"
        )
    if 2 * sum(vision.rotary_sections) != text.head_dim:
        keys.wrong(
            f"`mrope_section` has {sum(vision.rotary_sections)} pairs, and a head of "
            f"{text.head_dim} has {text.head_dim // 2}"
        )
    if vision.image_token_id >= text.vocab_size:
        keys.wrong(
            f"`image_token_id` = {vision.image_token_id} is no row of the embedding, which has "
            f"{text.vocab_size}"
        )
