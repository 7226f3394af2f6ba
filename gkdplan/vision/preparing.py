"""The settings of an image processor, which come with a model: whether they can be meant."""

import math
from collections.abc import Callable, Mapping

from gkdplan.vision.tiled import TiledVision

MAX_SIDE = 2**12
"""Of a tile, or of what it is cut from: that of a tower's own `image_size`."""
MAX_PIXELS = 2**32
"""Of an image that keeps its proportions; what one is really enlarged to a plan bounds."""
MAX_TILES = 2**10
"""That an image is cut into. transformers tries each pair of numbers up to it."""

Fault = str | None


def fault_of(vision: object, settings: Mapping[str, object]) -> Fault:
    """Why no image can be prepared for the tower as these keys of a preprocessor_config.json say,
    None where nothing speaks against it. A key that is missing or null transformers fills in."""
    rules = _OF_TILES if isinstance(vision, TiledVision) else _OF_PATCHES
    for key, find in (*rules.items(), *_OF_COLOURS.items()):
        value = settings.get(key)
        if value is not None and (fault := find(value)) is not None:
            return f"its `{key}` {fault}"
    return None


def _whole(most: int) -> Callable[[object], Fault]:
    def find(value: object) -> Fault:
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
            return None
        return f"is {_shown(value)}, and not a whole number from 1 to {most:,}"

    return find


def _sizes(most: int) -> Callable[[object], Fault]:
    """One number, or several by their names."""

    def find(value: object) -> Fault:
        sizes = value.values() if isinstance(value, Mapping) else (value,)
        return next((fault for size in sizes if (fault := _whole(most)(size)) is not None), None)

    return find


def _number(value: object) -> Fault:
    return None if _is_finite(value) else f"is {_shown(value)}, and not a number"


def _of_colours(value: object) -> Fault:
    numbers = value if isinstance(value, list | tuple) else (value,)
    if len(numbers) in (1, 3) and all(map(_is_finite, numbers)):
        return None
    return f"is {_shown(value)}, and not a number, or one for each of three colours"


def _divisor_of_colours(value: object) -> Fault:
    numbers = value if isinstance(value, list | tuple) else (value,)
    return f"is {_shown(value)}, and divides" if 0 in numbers else _of_colours(value)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


_MOST_SHOWN = 40
_OF_TILES = {
    "size": _sizes(MAX_SIDE),
    "crop_size": _sizes(MAX_SIDE),
    "min_patches": _whole(MAX_TILES),
    "max_patches": _whole(MAX_TILES),
}
_OF_PATCHES = {
    "size": _sizes(MAX_PIXELS),
    "min_pixels": _whole(MAX_PIXELS),
    "max_pixels": _whole(MAX_PIXELS),
}
_OF_COLOURS = {
    "rescale_factor": _number,
    "image_mean": _of_colours,
    "image_std": _divisor_of_colours,
}
