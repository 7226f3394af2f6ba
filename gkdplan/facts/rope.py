"""Rotary positions from a config.json, in the spelling of transformers 4 and of transformers 5."""

from gkdplan.facts.keys import Keys
from gkdplan.rope import Llama3Scaling

MAX_POSITIONS = 2**31
SUPPORTED_TYPES = ("default", "llama3")
DEFAULT_THETA = 10_000.0
_OPEN_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_LLAMA3_KEYS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


def read_rope(keys: Keys) -> tuple[float, Llama3Scaling | None]:
    """The base and the llama3 rule, or None where frequencies are not scaled.

    transformers 4 writes `rope_theta` beside `rope_scaling`, transformers 5 both into
    `rope_parameters` (transformers.modeling_rope_utils). Findings are left in `keys`.
    """
    old, new = keys.table("rope_scaling"), keys.table("rope_parameters")
    if old and new and old != new:
        keys.wrong("`rope_scaling` and `rope_parameters` differ, and only one of them can hold")
    rope = Keys(old or new, keys.origin, "rope_scaling." if old else "rope_parameters.")
    theta = _read_theta(keys, rope)
    scaling = _read_scaling(rope)
    keys.findings += rope.findings
    return theta, scaling


def _read_theta(keys: Keys, rope: Keys) -> float:
    outer, inner = (place.number("rope_theta", 1.0, 1e12, DEFAULT_THETA) for place in (keys, rope))
    if keys.has("rope_theta") and rope.has("rope_theta") and outer != inner:
        keys.wrong(f"`rope_theta` = {outer:g} and `{rope.prefix}rope_theta` = {inner:g} differ")
    return inner if rope.has("rope_theta") else outer


def _read_scaling(rope: Keys) -> Llama3Scaling | None:
    kind_key = "rope_type" if rope.has("rope_type") else "type"
    kind = rope.values[kind_key] if rope.has(kind_key) else "default"
    if kind not in SUPPORTED_TYPES:
        rope.refuse(kind_key, f"supported rotary types: {', '.join(SUPPORTED_TYPES)}")
        return None
    known = _OPEN_KEYS + (_LLAMA3_KEYS if kind == "llama3" else ())
    for key in rope.values:
        if key not in known and rope.has(key):
            rope.refuse(key, f"the rotary type {kind} has no such key")
    if rope.has("partial_rotary_factor") and rope.values["partial_rotary_factor"] != 1:
        rope.refuse("partial_rotary_factor", "every dimension of a head is rotated")
    return _read_llama3(rope) if kind == "llama3" else None


def _read_llama3(rope: Keys) -> Llama3Scaling:
    factor = rope.number("factor", 1.0, 1e6)
    low = rope.number("low_freq_factor", 1e-6, 1e6)
    high = rope.number("high_freq_factor", 1e-6, 1e6)
    original = rope.count("original_max_position_embeddings", MAX_POSITIONS)
    if not rope.findings and high <= low:
        rope.wrong(f"`high_freq_factor` = {high:g} must exceed `low_freq_factor` = {low:g}")
    return Llama3Scaling(factor, low, high, original)
