"""A ModelShape from a Hugging Face config.json, or every reason why it is refused."""

from collections.abc import Mapping
from dataclasses import replace

from gkdplan.attention import PLAIN_ATTENTION
from gkdplan.diagnostics import Diagnostic, error
from gkdplan.families import FAMILIES, Family
from gkdplan.families.activations import ACTIVATIONS
from gkdplan.families.experts import read_experts
from gkdplan.families.keys import Keys
from gkdplan.families.not_yet import NOT_YET
from gkdplan.families.rope import MAX_POSITIONS, read_rope
from gkdplan.families.seeing import ARCHITECTURES, READERS
from gkdplan.shape import ModelShape
from gkdplan.text import shown

MAX_CONFIG_BYTES = 8 * 2**20

_ONLY = {
    "mlp_bias": (False, "the MLP's projections have no bias"),
    "attention_dropout": (0, "nothing is dropped in attention"),
    "rope_interleaved": (False, "heads are rotated in halves, not in pairs"),
}
_ABSENT = {
    "quantization_config": "only checkpoints in floating point are read",
    "compression_config": "only checkpoints in floating point are read",
    "auto_map": "code that comes with a model is never run",
}


def read_shape(
    config: Mapping[str, object], origin: str
) -> tuple[ModelShape | None, tuple[Diagnostic, ...]]:
    """The shape that a config describes; None where there is an error.

    `origin` names the file in messages. GK102: another architecture; GK104: a key is missing, of
    another type or out of range; GK105: a feature that ModelShape cannot hold. Defaults are those
    of the family's config class in transformers. A model that sees images is a decoder of one of
    the families, with its vision.
    """
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        return _read_seeing(config, ARCHITECTURES[model_type], origin)
    return _read_decoder(config, origin)


def _read_seeing(
    config: Mapping[str, object], architecture: str, origin: str
) -> tuple[ModelShape | None, tuple[Diagnostic, ...]]:
    """A decoder under `text_config`, and the vision before it."""
    if config.get("architectures") not in (None, [architecture]):
        return None, (_unsupported(config, origin),)
    keys = Keys(config, origin)
    for key, why in _ABSENT.items():
        if keys.values.get(key):
            keys.refuse(key, why)
    seeing = READERS[str(config["model_type"])]
    shape, found = _read_decoder(seeing.text_config(keys), f"`text_config` of {origin}")
    if shape is None or keys.findings:
        return None, (*keys.findings, *found)
    vision = seeing.read_vision(keys, shape)
    return (None if keys.findings else replace(shape, vision=vision)), tuple(keys.findings)


def _read_decoder(
    config: Mapping[str, object], origin: str
) -> tuple[ModelShape | None, tuple[Diagnostic, ...]]:
    family_name = config.get("model_type")
    family = FAMILIES.get(family_name) if isinstance(family_name, str) else None
    architectures = config.get("architectures")
    if family is None or architectures not in (None, [family.architecture]):
        return None, (_unsupported(config, origin),)
    keys = Keys(config, origin)
    shape = _shape(keys, family)
    _refuse_features(keys, family, shape)
    if not keys.findings:
        _check_heads(keys, shape)
    return (None if keys.findings else shape), tuple(keys.findings)


def _shape(keys: Keys, family: Family) -> ModelShape:
    hidden_size = keys.count("hidden_size", 2**20)
    num_layers = keys.count("num_hidden_layers", 2**12)
    num_heads = keys.count("num_attention_heads", 2**14)
    usual = {"num_key_value_heads": num_heads, "head_dim": hidden_size // num_heads or 1}
    num_kv_heads, head_dim = (
        keys.count(key, bound, None if key in family.required else usual[key])
        for key, bound in (("num_key_value_heads", 2**14), ("head_dim", 2**12))
    )
    rotary = read_rope(keys, family, head_dim)
    own = {"qkv_bias": False, "qk_norm": False, **family.fixed, **family.read(keys, num_layers)}
    attention = own.pop("attention", PLAIN_ATTENTION)
    return ModelShape(
        family=family.model_type,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_attention_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=own.pop("head_dim", head_dim),
        ffn_hidden_size=keys.count("intermediate_size", 2**22),
        vocab_size=keys.count("vocab_size", 2**24),
        max_position_embeddings=keys.count("max_position_embeddings", MAX_POSITIONS),
        norm_eps=keys.number("rms_norm_eps", 0.0, 1.0),
        rope_theta=rotary.theta,
        rope_scaling=rotary.scaling,
        tied_embeddings=keys.flag("tie_word_embeddings", family.is_tied),
        attention=replace(attention, rotary_fraction=rotary.fraction),
        moe=None if family.experts is None else read_experts(keys, family.experts, num_layers),
        **own,
    )


def _unsupported(config: Mapping[str, object], origin: str) -> Diagnostic:
    found = f"model_type {shown(config.get('model_type'))}"
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        found += f", architecture {shown(architectures[0])}"
    return error(
        "GK102",
        f"{origin} describes another architecture than the supported ones: {found}",
        "model",
        label="this version cannot build it",
        notes=NOT_YET.get(str(config.get("model_type")), ()),
        help=(
            f"use a model of one of the families {', '.join(FAMILIES)}",
            "or add a family: one file in gkdplan/families, as CONTRIBUTING.md shows",
        ),
    )


def _refuse_features(keys: Keys, family: Family, shape: ModelShape) -> None:
    activation = (ACTIVATIONS[shape.activation], "the activation of the family's MLP")
    only = {**_ONLY, **dict.fromkeys(family.activation_keys, activation), **family.only}
    for key, (value, why) in only.items():
        if keys.has(key) and keys.values[key] != value:
            keys.refuse(key, why)
    for key, why in _ABSENT.items():
        if keys.values.get(key) and not (key == "auto_map" and family.names_code):
            keys.refuse(key, why)
    if not shape.qkv_bias and keys.flag("attention_bias", False):
        keys.refuse("attention_bias", "a bias on the attention's output is not available yet")


def _check_heads(keys: Keys, shape: ModelShape) -> None:
    hidden, heads, kv_heads = shape.hidden_size, shape.num_attention_heads, shape.num_kv_heads
    if shape.latent is not None:
        if kv_heads != heads:
            keys.refuse("num_key_value_heads", "with latents every head has keys of its own")
        return
    if heads % kv_heads:
        keys.wrong(
            f"`num_attention_heads` = {heads} is not a multiple of `num_key_value_heads` = "
            f"{kv_heads}"
        )
    if hidden % heads and (shape.family == "llama" or not keys.has("head_dim")):
        keys.wrong(f"`hidden_size` = {hidden} is not a multiple of `num_attention_heads` = {heads}")
    if shape.head_dim % 2:
        keys.wrong(f"`head_dim` = {shape.head_dim} is odd, and rotary positions turn pairs")
    if shape.head_dim % 2 == 0 and shape.rotated_size % 2:
        keys.wrong(
            f"`partial_rotary_factor` = {shape.attention.rotary_fraction:g} rotates "
            f"{shape.rotated_size} "
            f"coordinates of a head, and rotary positions turn pairs"
        )
