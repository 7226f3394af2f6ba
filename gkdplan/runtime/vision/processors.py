"""What an image processor of transformers makes of an image, and whether a tower takes it.

A processor comes with a model, so that it is asked for nothing before it is known what it makes.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, assert_never

from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from gkdplan.vision import (
    ClipVision,
    InternVision,
    PatchedVision,
    Qwen3Vision,
    QwenVision,
    VisionShape,
)
from gkdplan.vision.preparing import fault_of

KINDS: dict[type, tuple[str, ...]] = {
    ClipVision: ("CLIPImageProcessorPil", "LlavaImageProcessorPil"),
    InternVision: ("GotOcr2ImageProcessorPil",),
    QwenVision: ("Qwen2VLImageProcessorPil",),
    Qwen3Vision: ("Qwen2VLImageProcessorPil",),
}
"""Of transformers' image processors those of which it is known what they make of an image."""
BLANK = (30, 40)
"""Rows and columns of an image that is tried."""


def prepared(shape: VisionShape, processor: Any, images: list[Image.Image]) -> Mapping[str, Tensor]:
    """What the processor makes of images. InternVL's cuts them into tiles, whatever its file says
    (transformers.models.internvl.processing_internvl)."""
    options = {"crop_to_patches": True} if isinstance(shape, InternVision) else {}
    made: Mapping[str, Tensor] = processor(images=images, return_tensors="pt", **options)
    return made


def grid_of(shape: VisionShape, processor: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the tokens of an image of so many pixels; those of CLIP, all in one row,
    those of InternVL, each tile in a row.

    Raises ValueError where the processor refuses such an image.
    """
    match shape:
        case ClipVision():
            return 1, shape.tokens_per_tile
        case InternVision():
            cut = {"crop_to_patches": True}
            num_tiles = processor.get_number_of_image_patches(height, width, cut)
            return num_tiles, shape.tokens_per_tile
        case QwenVision() | Qwen3Vision():
            side, size = shape.patch_size * shape.merge_size, processor.size
            smallest, largest = size["shortest_edge"], size["longest_edge"]
            resized = smart_resize(height, width, side, smallest, largest)
            if not all(resized):
                raise ValueError("nothing is left of it")
            return resized[0] // side, resized[1] // side
        case _:
            assert_never(shape)


def num_pixels_of(shape: VisionShape, processor: Any, height: int, width: int) -> int:
    """Of what the processor resizes an image to, and of all tiles that it is cut into."""
    match shape:
        case ClipVision():
            return _num_resized(processor, height, width)
        case InternVision():
            num_tiles, _ = grid_of(shape, processor, height, width)
            return num_tiles * shape.image_size**2
        case QwenVision() | Qwen3Vision():
            side = shape.patch_size * shape.merge_size
            return prod(grid_of(shape, processor, height, width)) * side**2
        case _:
            assert_never(shape)


def _num_resized(processor: Any, height: int, width: int) -> int:
    """By one of CLIP's, which a tile is cut out of afterwards: the shorter side becomes that of
    `size`, or both sides do; LLaVA's own may make a square of it before."""
    size = processor.size
    if getattr(processor, "do_pad", False):
        height = width = max(height, width)
    resized = 0
    if processor.do_resize and size.shortest_edge:
        shorter, longer = sorted((height, width))
        resized = int(size.shortest_edge) ** 2 * longer // shorter
    elif processor.do_resize:
        resized = int(size.height) * int(size.width)
    return max(height * width, resized)


def misfit_of(shape: VisionShape, processor: Any, most_pixels: int) -> str | None:
    """Why the tower cannot take what the processor makes, or it makes more than `most_pixels` of a
    small image; None where it can. The processor may raise anything."""
    kind, kinds = type(processor).__name__, KINDS[type(shape)]
    if kind not in kinds:
        return f"it is a {kind}, and what prepares images for the tower is a {' or '.join(kinds)}"
    fault = fault_of(shape, processor.to_dict())
    if fault is not None:
        return fault
    expected: tuple[int, ...]
    match shape:
        case ClipVision():
            expected = (1, 3, shape.image_size, shape.image_size)
        case InternVision():
            num_tiles, _ = grid_of(shape, processor, *BLANK)
            expected = (num_tiles, 3, shape.image_size, shape.image_size)
        case QwenVision() | Qwen3Vision():
            for key, value in _settings(shape).items():
                found = getattr(processor, key, None)
                if found != value:
                    return f"its `{key}` is {found}, and the tower's is {value}"
            rows, columns = grid_of(shape, processor, *BLANK)
            expected = (shape.num_states_of(rows * columns), shape.numbers_per_patch)
        case _:
            assert_never(shape)
    height, width = BLANK
    made = num_pixels_of(shape, processor, height, width)
    if made > most_pixels:
        return f"it makes {made:,} pixels of an image of {width} x {height}"
    blank = prepared(shape, processor, [Image.new("RGB", (width, height))])["pixel_values"]
    if tuple(blank.shape) == expected:
        return None
    return f"it makes {list(blank.shape)} of an image, and the tower takes {list(expected)}"


def _settings(shape: PatchedVision) -> dict[str, int | bool]:
    """By the processor's names."""
    return {
        "do_resize": True,
        "patch_size": shape.patch_size,
        "temporal_patch_size": shape.temporal_patch_size,
        "merge_size": shape.merge_size,
    }
