"""SmolLM3: some layers have no rotary positions."""

from dataclasses import replace
from typing import Any

from gkdplan.families.family import Family
from gkdplan.families.keys import Keys
from gkdplan.families.windows import read_windows, written_windows
from gkdplan.shape import ModelShape

INTERVAL = 4


def _read(keys: Keys, num_layers: int) -> dict[str, Any]:
    """Each fourth layer has no rotary positions; where a window is used, it has the window."""
    unrotated = _unrotated(keys, num_layers)
    is_used = keys.flag("use_sliding_window", False)
    windows = read_windows(keys, num_layers, lambda layer: layer in unrotated, is_used=is_used)
    return {"attention": replace(windows, unrotated_layers=unrotated)}


def _unrotated(keys: Keys, num_layers: int) -> tuple[int, ...]:
    """`no_rope_layers` has a 0 for a layer that is not rotated."""
    if not keys.has("no_rope_layers"):
        interval = keys.count("no_rope_layer_interval", 2**12, INTERVAL)
        return tuple(range(interval - 1, num_layers, interval))
    rotated = keys.values["no_rope_layers"]
    if not isinstance(rotated, list) or any(one not in (0, 1) for one in rotated):
        keys.refuse("no_rope_layers", "it is a list of 0 and 1, one for each layer")
        return ()
    if len(rotated) != num_layers:
        keys.wrong(f"`no_rope_layers` has {len(rotated)} entries for {num_layers} layers")
        return ()
    return tuple(layer for layer, is_rotated in enumerate(rotated) if not is_rotated)


def _write(shape: ModelShape) -> dict[str, object]:
    unrotated = shape.attention.unrotated_layers
    return {
        **written_windows(shape),
        "use_sliding_window": shape.attention.window is not None,
        "no_rope_layers": [int(layer not in unrotated) for layer in range(shape.num_layers)],
    }


SMOLLM3 = Family(
    "smollm3",
    "SmolLM3ForCausalLM",
    default_theta=2_000_000.0,
    is_tied=True,
    read=_read,
    write=_write,
)
