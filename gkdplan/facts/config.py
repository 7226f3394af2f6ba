"""A ModelShape from a Hugging Face config.json, or every reason why it is refused."""

from collections.abc import Mapping
from dataclasses import dataclass

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.facts.experts import MIXTRAL, QWEN2, QWEN3, ExpertKeys, read_experts
from gkdplan.facts.keys import Keys
from gkdplan.facts.rope import MAX_POSITIONS, read_rope
from gkdplan.facts.text import shown
from gkdplan.shape import ModelShape

MAX_CONFIG_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Family:
    """What a `model_type` fixes and which keys its configs always hold.

    Keys in `required` have a default in transformers that fits one size of the family only
    (32 kv heads, a head dim of 128), so a config without them is refused, not guessed. Families
    with `experts` have them in every layer.
    """

    architecture: str
    qkv_bias: bool
    qk_norm: bool
    required: tuple[str, ...]
    experts: ExpertKeys | None = None


FAMILIES = {
    "llama": Family("LlamaForCausalLM", False, False, ()),
    "qwen2": Family("Qwen2ForCausalLM", True, False, ("num_key_value_heads",)),
    "qwen3": Family("Qwen3ForCausalLM", False, True, ("num_key_value_heads", "head_dim")),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", False, True, ("num_key_value_heads",), QWEN3),
    "qwen2_moe": Family("Qwen2MoeForCausalLM", True, False, ("num_key_value_heads",), QWEN2),
    "mixtral": Family("MixtralForCausalLM", False, False, ("num_key_value_heads",), MIXTRAL),
}

_ONLY = {
    "hidden_act": ("silu", "the MLP is gated by SiLU"),
    "mlp_bias": (False, "the MLP's projections have no bias"),
    "attention_dropout": (0, "nothing is dropped in attention"),
    "use_sliding_window": (False, "attention over a sliding window is not available yet"),
    "partial_rotary_factor": (1, "every dimension of a head is rotated"),
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
    of the family's config class in transformers.
    """
    family_name = config.get("model_type")
    family = FAMILIES.get(family_name) if isinstance(family_name, str) else None
    architectures = config.get("architectures")
    if family is None or architectures not in (None, [family.architecture]):
        return None, (_unsupported(config, origin),)
    keys = Keys(config, origin)
    hidden_size = keys.count("hidden_size", 2**20)
    num_heads = keys.count("num_attention_heads", 2**14)
    usual = {"num_key_value_heads": num_heads, "head_dim": hidden_size // num_heads or 1}
    for key in family.required:
        del usual[key]
    rope_theta, rope_scaling = read_rope(keys)
    shape = ModelShape(
        family=str(family_name),
        hidden_size=hidden_size,
        num_layers=keys.count("num_hidden_layers", 2**12),
        num_attention_heads=num_heads,
        num_kv_heads=keys.count("num_key_value_heads", 2**14, usual.get("num_key_value_heads")),
        head_dim=keys.count("head_dim", 2**12, usual.get("head_dim")),
        ffn_hidden_size=keys.count("intermediate_size", 2**22),
        vocab_size=keys.count("vocab_size", 2**24),
        max_position_embeddings=keys.count("max_position_embeddings", MAX_POSITIONS),
        norm_eps=keys.number("rms_norm_eps", 0.0, 1.0),
        rope_theta=rope_theta,
        tied_embeddings=keys.flag("tie_word_embeddings", False),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        rope_scaling=rope_scaling,
        moe=None if family.experts is None else read_experts(keys, family.experts),
    )
    _refuse_features(keys, family)
    if not keys.findings:
        _check_heads(keys, shape)
    return (None if keys.findings else shape), tuple(keys.findings)


def _unsupported(config: Mapping[str, object], origin: str) -> Diagnostic:
    names = ", ".join(f"{name} ({family.architecture})" for name, family in FAMILIES.items())
    found = f"model_type {shown(config.get('model_type'))}"
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        found += f", architecture {shown(architectures[0])}"
    return error(
        "GK102",
        f"{origin} describes another architecture than the supported ones: {found}",
        "model",
        label="this version cannot build it",
        help=(f"use a model of one of the families {names}",),
    )


def _refuse_features(keys: Keys, family: Family) -> None:
    for key, (only, why) in _ONLY.items():
        if keys.has(key) and keys.values[key] != only:
            keys.refuse(key, why)
    for key, why in _ABSENT.items():
        if keys.values.get(key):
            keys.refuse(key, why)
    if family.experts is MIXTRAL and keys.has("sliding_window"):
        keys.refuse("sliding_window", _ONLY["use_sliding_window"][1])
    if family.experts is QWEN2 and not keys.flag("qkv_bias", True):
        keys.refuse("qkv_bias", "queries, keys and values have a bias")
    # Qwen2 has its qkv bias whatever the key says; in the others the key adds one to o_proj too.
    if not family.qkv_bias and keys.flag("attention_bias", False):
        keys.refuse("attention_bias", "a bias on the attention's output is not available yet")
    layer_types = keys.values.get("layer_types") or []
    if not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types):
        keys.refuse("layer_types", "every layer attends to the whole sequence")


def _check_heads(keys: Keys, shape: ModelShape) -> None:
    hidden, heads, kv_heads = shape.hidden_size, shape.num_attention_heads, shape.num_kv_heads
    if heads % kv_heads:
        keys.wrong(
            f"`num_attention_heads` = {heads} is not a multiple of `num_key_value_heads` = "
            f"{kv_heads}"
        )
    if hidden % heads and (shape.family == "llama" or not keys.has("head_dim")):
        keys.wrong(f"`hidden_size` = {hidden} is not a multiple of `num_attention_heads` = {heads}")
    if shape.head_dim % 2:
        keys.wrong(f"`head_dim` = {shape.head_dim} is odd, and rotary positions turn pairs")
