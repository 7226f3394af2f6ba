"""What the configs of Qwen's models that see share: a decoder whose tokens stand in time, row and
column, behind a tower that turns by row and column."""

from collections.abc import Mapping

from gkdplan.families.keys import Keys
from gkdplan.shape import ModelShape
from gkdplan.vision import PatchedVision

_MROPE_TYPES = (None, "mrope", "default")
_ROTARY_OF_TOWER: dict[str, tuple[object, str]] = {
    "rope_type": ("axial", "the tower turns by row and column"),
    "rope_theta": (10_000, "the tower's rotary positions have that base"),
}
_NUM_SECTIONS = 3
"""Time, row and column."""
_NOT_THE_DECODERS = ("rope_scaling", "rope_parameters", "text_config", "vision_config")


def plain_decoder(
    keys: Keys, text: Mapping[str, object], model_type: str, default_theta: float
) -> dict[str, object]:
    """The config of the decoder, as if it stood alone: that of `model_type`, with plain rotary
    positions, and a head that is tied where the whole model says so, or else the decoder."""
    theta = rope_of(keys).values.get("rope_theta", text.get("rope_theta", default_theta))
    tied = keys.values.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    kept = {key: value for key, value in text.items() if key not in _NOT_THE_DECODERS}
    return {**kept, "model_type": model_type, "rope_theta": theta, "tie_word_embeddings": tied}


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
