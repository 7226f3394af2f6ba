"""Rotary positions of a config.json, in the spelling of transformers 4 and of transformers 5."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

from gkdplan.families.family import Family
from gkdplan.families.keys import Keys
from gkdplan.rope import LinearScaling, Llama3Scaling, LongRopeScaling, RopeScaling, YarnScaling
from gkdplan.shape import ModelShape

MAX_POSITIONS = 2**31
MAX_THETA = 1e12
FULL_LAYERS = "full_attention"
_OPEN_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


@dataclass(frozen=True, slots=True)
class Rotary:
    """Base, rule of scaling, and the fraction of a head that is rotated."""

    theta: float
    scaling: RopeScaling | None
    fraction: float


def read_rope(keys: Keys, family: Family, head_dim: int) -> Rotary:
    """The rotary positions of all layers, or of those that attend to all positions where a family
    tells them apart.

    transformers 4 writes `rope_theta` beside `rope_scaling`, transformers 5 both into
    `rope_parameters` (transformers.modeling_rope_utils). Findings are left in `keys`.
    """
    old, new = keys.table("rope_scaling"), keys.table("rope_parameters")
    if old and new and old != new:
        keys.wrong("`rope_scaling` and `rope_parameters` differ, and only one of them can hold")
    rope = keys.inner("rope_scaling" if old else "rope_parameters")
    if family.has_rope_by_layer and FULL_LAYERS in rope.values:
        rope = rope.inner(FULL_LAYERS)
    fraction = _agreeing(keys, rope, "partial_rotary_factor", 1e-3, 1.0, family.default_fraction)
    if fraction != 1 and not family.rotates_part:
        keys.refuse("partial_rotary_factor", "every dimension of a head is rotated")
    theta = _agreeing(keys, rope, "rope_theta", 1.0, MAX_THETA, family.default_theta)
    return Rotary(theta, _read_scaling(keys, rope, int(head_dim * fraction)), fraction)


def written_rope(shape: ModelShape) -> dict[str, object]:
    """The table that transformers 5 has for a shape's rotary positions."""
    scaling = shape.rope_scaling
    kind = next((name for name, rule in _RULES.items() if isinstance(scaling, rule.made)), None)
    table: dict[str, object] = {"rope_type": kind or "default", "rope_theta": shape.rope_theta}
    if shape.attention.rotary_fraction != 1:
        table["partial_rotary_factor"] = shape.attention.rotary_fraction
    if isinstance(scaling, LongRopeScaling):
        return table | {
            "short_factor": list(scaling.short_factors),
            "long_factor": list(scaling.long_factors),
            "original_max_position_embeddings": scaling.original_max_position_embeddings,
            "attention_factor": scaling.attention_factor,
        }
    return table if scaling is None else table | asdict(scaling)


def _agreeing(
    keys: Keys, rope: Keys, key: str, at_least: float, at_most: float, default: float
) -> float:
    """A number that may stand beside the table and in it."""
    outer, inner = (place.number(key, at_least, at_most, default) for place in (keys, rope))
    if keys.has(key) and rope.has(key) and outer != inner:
        keys.wrong(f"`{key}` = {outer:g} and `{rope.prefix}{key}` = {inner:g} differ")
    return inner if rope.has(key) else outer


def _read_scaling(keys: Keys, rope: Keys, rotary_dim: int) -> RopeScaling | None:
    kind_key = "rope_type" if rope.has("rope_type") else "type"
    kind = rope.values[kind_key] if rope.has(kind_key) else "default"
    if kind not in ("default", *_RULES):
        rope.refuse(kind_key, f"supported rotary types: default, {', '.join(_RULES)}")
        return None
    rule = None if kind == "default" else _RULES[str(kind)]
    for key in rope.values:
        if key not in _OPEN_KEYS + (() if rule is None else rule.keys) and rope.has(key):
            rope.refuse(key, f"the rotary type {kind} has no such key")
    return None if rule is None else rule.read(keys, rope, rotary_dim)


def _read_linear(keys: Keys, rope: Keys, rotary_dim: int) -> LinearScaling:
    return LinearScaling(rope.number("factor", 1.0, 1e6))


def _read_llama3(keys: Keys, rope: Keys, rotary_dim: int) -> Llama3Scaling:
    factor = rope.number("factor", 1.0, 1e6)
    low = rope.number("low_freq_factor", 1e-6, 1e6)
    high = rope.number("high_freq_factor", 1e-6, 1e6)
    original = rope.count("original_max_position_embeddings", MAX_POSITIONS)
    if not rope.findings and high <= low:
        rope.wrong(f"`high_freq_factor` = {high:g} must exceed `low_freq_factor` = {low:g}")
    return Llama3Scaling(factor, low, high, original)


def _read_yarn(keys: Keys, rope: Keys, rotary_dim: int) -> YarnScaling:
    """`attention_factor` is 0.1 ln(factor) + 1 where it is not given, or the quotient of two such
    terms, `mscale` and `mscale_all_dim` times the logarithm."""
    original, factor = _stretch(keys, rope)
    mscales = [rope.optional_number(key, 0.0, 1e6) for key in ("mscale", "mscale_all_dim")]
    over, under = (0.1 * (mscale or 0.0) * math.log(factor) + 1 for mscale in mscales)
    usual = over / under if all(mscales) else 0.1 * math.log(factor) + 1
    return YarnScaling(
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=rope.number("beta_fast", 1e-6, 1e6, 32.0),
        beta_slow=rope.number("beta_slow", 1e-6, 1e6, 1.0),
        attention_factor=rope.number("attention_factor", 1e-6, 1e6, usual),
        truncate=rope.flag("truncate", True),
    )


def _read_longrope(keys: Keys, rope: Keys, rotary_dim: int) -> LongRopeScaling:
    """`attention_factor` is sqrt(1 + ln(factor) / ln(original)) where it is not given."""
    original, factor = _stretch(keys, rope)
    usual = math.sqrt(1 + math.log(factor) / math.log(max(2, original)))
    short, long = (
        rope.numbers(key, 1e-6, 1e6, rotary_dim // 2) for key in ("short_factor", "long_factor")
    )
    given = rope.number("attention_factor", 1e-6, 1e6, usual)
    return LongRopeScaling(short, long, original, given)


def _stretch(keys: Keys, rope: Keys) -> tuple[int, float]:
    """The original number of positions, which some configs say beside the table, and by what factor
    the model goes beyond it."""
    positions = keys.count("max_position_embeddings", MAX_POSITIONS)
    inner = rope.count("original_max_position_embeddings", MAX_POSITIONS, positions)
    original = keys.count("original_max_position_embeddings", MAX_POSITIONS, inner)
    return original, rope.number("factor", 1.0, 1e6, max(1.0, positions / original))


@dataclass(frozen=True, slots=True)
class _Rule:
    """What reads a rotary type, what it makes, and which keys it has."""

    read: Callable[[Keys, Keys, int], RopeScaling]
    made: type
    keys: tuple[str, ...]


_RULES = {
    "linear": _Rule(_read_linear, LinearScaling, ("factor",)),
    "llama3": _Rule(
        _read_llama3,
        Llama3Scaling,
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    ),
    "yarn": _Rule(
        _read_yarn,
        YarnScaling,
        (
            *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
            *("attention_factor", "truncate", "mscale", "mscale_all_dim"),
        ),
    ),
    "longrope": _Rule(
        _read_longrope,
        LongRopeScaling,
        (
            *("factor", "original_max_position_embeddings", "short_factor", "long_factor"),
            "attention_factor",
        ),
    ),
}
