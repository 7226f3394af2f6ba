"""Which layers attend to a sliding window, as configs say it."""

from collections.abc import Callable

from gkdplan.attention import AttentionShape
from gkdplan.families.keys import Keys
from gkdplan.shape import ModelShape

MAX_WINDOW = 2**31
FULL, SLIDING = "full_attention", "sliding_attention"


def read_windows(
    keys: Keys, num_layers: int, slides: Callable[[int], bool], *, is_used: bool = True
) -> AttentionShape:
    """`sliding_window` and the layers that have it: those that `layer_types` names, where it is
    given, else those that `slides` says by their number.

    A window that is not used, or is null, is none. GK104: `layer_types` of another length.
    """
    if not is_used or not keys.has("sliding_window"):
        _check_types(keys, num_layers, (FULL,))
        return AttentionShape()
    window = keys.count("sliding_window", MAX_WINDOW)
    types = _check_types(keys, num_layers, (FULL, SLIDING))
    layers = range(num_layers)
    sliding = [n for n in layers if (types[n] == SLIDING if types else slides(n))]
    return AttentionShape(window=window if sliding else None, sliding_layers=tuple(sliding))


def refuse_windows(keys: Keys, num_layers: int) -> None:
    """For a family whose every layer attends to all positions."""
    _check_types(keys, num_layers, (FULL,))
    if keys.flag("use_sliding_window", False):
        keys.refuse("use_sliding_window", "the family's layers attend to all positions")


def written_windows(shape: ModelShape) -> dict[str, object]:
    """The same keys, of a shape."""
    attention = shape.attention
    sliding = [n in attention.sliding_layers for n in range(shape.num_layers)]
    return {
        "sliding_window": attention.window,
        "layer_types": [SLIDING if slides else FULL for slides in sliding],
    }


def _check_types(keys: Keys, num_layers: int, known: tuple[str, ...]) -> list[str]:
    types = keys.values.get("layer_types") or []
    if not isinstance(types, list) or any(kind not in known for kind in types):
        keys.refuse("layer_types", f"layers can be {' or '.join(known)}")
        return []
    if types and len(types) != num_layers:
        keys.wrong(f"`layer_types` has {len(types)} entries for {num_layers} layers")
        return []
    return types
