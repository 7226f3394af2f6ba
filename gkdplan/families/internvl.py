"""The vision part of InternVL's config.json, and the config of the decoder behind it."""

from collections.abc import Mapping

from gkdplan.families.keys import Keys
from gkdplan.shape import ModelShape
from gkdplan.vision import InternVision

MODEL_TYPE, ARCHITECTURE = "internvl", "InternVLForConditionalGeneration"

DECODERS = ("qwen2", "qwen3", "llama")
_SIDE = 448
_NORMS = ("layer_norm", "rms_norm")
_NOT_DROPPED = (0, "nothing is dropped")
_ONLY_OF_TOWER: dict[str, tuple[object, str]] = {
    "model_type": ("internvl_vision", "the tower is InternViT"),
    "hidden_act": ("gelu", "the tower's activation is GELU"),
    "num_channels": (3, "images have three colours"),
    "use_absolute_position_embeddings": (True, "every state has a learnt position"),
    "use_mask_token": (False, "no patch is masked"),
    "attention_dropout": _NOT_DROPPED,
    "hidden_dropout_prob": _NOT_DROPPED,
    "projection_dropout": _NOT_DROPPED,
}
_ONLY_OF_PROJECTOR: dict[str, tuple[object, str]] = {
    "projector_hidden_act": ("gelu", "the projector's activation is GELU"),
    "vision_feature_layer": (-1, "the states of the tower's last layer are taken"),
    "vision_feature_select_strategy": ("default", "the class token's state is left out"),
}


def text_config(keys: Keys) -> dict[str, object]:
    """The config of the decoder, as if it stood alone.

    Its rotary positions are "dynamic" in released models: plain ones up to
    `max_position_embeddings`, past which no row goes (GK424).
    """
    text = keys.table("text_config")
    if text.get("model_type") not in DECODERS:
        keys.refuse("text_config", f"decoders of InternVL are {', '.join(DECODERS)}")
    tied = keys.values.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    rope = {key: _plain(keys, key) for key in ("rope_scaling", "rope_parameters") if key in text}
    return {**text, **rope, "tie_word_embeddings": tied}


def _plain(keys: Keys, key: str) -> Mapping[str, object] | None:
    """A table of rotary positions, without a scaling that begins past the last position."""
    rope = keys.inner("text_config").inner(key)
    if "dynamic" not in (rope.values.get("rope_type"), rope.values.get("type")):
        return rope.values or None
    rope.number("factor", 1.0, 1e6)
    kept = {name: rope.values[name] for name in ("rope_theta",) if rope.has(name)}
    return {**kept, "rope_type": "default"} if kept else None


def read_vision(keys: Keys, text: ModelShape) -> InternVision:
    """The tower and projector before a decoder; findings are left in `keys` (GK104, GK105)."""
    tower = keys.inner("vision_config")
    for place, only in ((tower, _ONLY_OF_TOWER), (keys, _ONLY_OF_PROJECTOR)):
        for key, (value, why) in only.items():
            if place.has(key) and place.values[key] != value:
                place.refuse(key, why)
    norms = tower.values.get("norm_type", _NORMS[0])
    if norms not in _NORMS:
        tower.refuse("norm_type", f"a tower's norms are one of {', '.join(_NORMS)}")
    vision = InternVision(
        hidden_size=tower.count("hidden_size", 2**16, 1024),
        num_layers=tower.count("num_hidden_layers", 2**10, 24),
        num_heads=tower.count("num_attention_heads", 2**10, 16),
        ffn_hidden_size=tower.count("intermediate_size", 2**20, 4096),
        image_size=_side(tower, "image_size", _SIDE),
        patch_size=_side(tower, "patch_size", 14),
        activation="gelu",
        norm_eps=tower.number("layer_norm_eps", 0.0, 1.0, 1e-6),
        output_size=text.hidden_size,
        image_token_id=keys.count("image_token_id", 2**24, 151667),
        merge_size=_merge_size(keys),
        qkv_bias=tower.flag("attention_bias", False),
        qk_norm=tower.flag("use_qk_norm", False),
        rms_norms=norms == "rms_norm",
        final_norm=not tower.flag("use_mean_pooling", True),
    )
    if not keys.findings:
        _check_sizes(keys, vision, text)
    return vision


def _side(tower: Keys, key: str, default: int) -> int:
    """Of a square, one number or two alike."""
    match tower.values.get(key):
        case [int(height), int(width)] if height == width:
            return Keys({key: height}, tower.origin, tower.prefix).count(key, 2**12, default)
        case list():
            tower.refuse(key, "tiles and patches are squares")
            return 1
    return tower.count(key, 2**12, default)


def _merge_size(keys: Keys) -> int:
    ratio = keys.number("downsample_ratio", 1e-3, 1.0, 0.5)
    if 1 / ratio != int(1 / ratio):
        keys.refuse("downsample_ratio", "a token is made of a square of whole states")
    return int(1 / ratio)


def _check_sizes(keys: Keys, vision: InternVision, text: ModelShape) -> None:
    if vision.hidden_size % vision.num_heads:
        keys.wrong(
            f"`vision_config.hidden_size` = {vision.hidden_size} is not a multiple of "
            f"`vision_config.num_attention_heads` = {vision.num_heads}"
        )
    side, merged = vision.image_size // vision.patch_size, vision.merge_size
    if side == 0 or side % merged:
        keys.wrong(
            f"a tile is {side} patches wide, no multiple of the {merged} that `downsample_ratio` "
            "joins"
        )
        return
    length = keys.count("image_seq_length", 2**24, 256)
    if length != vision.tokens_per_tile:
        keys.wrong(f"`image_seq_length` = {length}, and a tile has {vision.tokens_per_tile} tokens")
    if vision.image_token_id >= text.vocab_size:
        keys.wrong(
            f"`image_token_id` = {vision.image_token_id} is no row of the embedding, which has "
            f"{text.vocab_size}"
        )
