"""One architecture as a table: what it fixes, how its configs spell the rest, what its tensors are
called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gkdplan.families.experts import ExpertKeys
from gkdplan.families.keys import Keys
from gkdplan.families.names import LLAMA_NAMES, Names
from gkdplan.families.windows import refuse_windows
from gkdplan.shape import ModelShape


def full_attention(keys: Keys, num_layers: int) -> dict[str, Any]:
    """Every layer attends to all positions; a config that says otherwise is refused."""
    refuse_windows(keys, num_layers)
    return {}


def no_keys(shape: ModelShape) -> dict[str, object]:
    """Nothing beside the keys that every family has."""
    return {}


@dataclass(frozen=True, slots=True)
class Family:
    """What a `model_type` fixes and how the config.json of one of its models reads.

    `fixed` are fields of ModelShape that all its models share. Keys in `required` have a default in
    transformers that fits one size of the family only (32 kv heads, a head dim of 128), so a config
    without them is refused, not guessed. `only` are keys of which one value can be built, with
    the reason. `default_theta`, `default_fraction` and `is_tied` are what transformers assumes of
    rotary positions and of the head where the config does not say; a family that
    `rotates_part` of a head may have another fraction than 1; with `has_rope_by_layer` layers of a
    window may have other rotary positions. Where it `names_code` its released configs name code
    beside them that transformers has itself: it is neither read nor run.
    `experts` say how a family spells them. `read` gives the fields of ModelShape that the family's
    own keys say, for a number of layers, and `write` spells them again.
    """

    model_type: str
    architecture: str
    required: tuple[str, ...] = ("num_key_value_heads",)
    fixed: Mapping[str, object] = field(default_factory=dict)
    only: Mapping[str, tuple[object, str]] = field(default_factory=dict)
    default_theta: float = 10_000.0
    default_fraction: float = 1.0
    rotates_part: bool = False
    has_rope_by_layer: bool = False
    is_tied: bool = False
    names_code: bool = False
    activation_keys: tuple[str, ...] = ("hidden_act",)
    names: Names = LLAMA_NAMES
    experts: ExpertKeys | None = None
    read: Callable[[Keys, int], dict[str, Any]] = full_attention
    write: Callable[[ModelShape], dict[str, object]] = no_keys
