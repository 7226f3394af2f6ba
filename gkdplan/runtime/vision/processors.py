"""What an image processor of transformers makes of an image, and whether a tower takes it."""

from collections.abc import Mapping
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


def misfit_of(shape: VisionShape, processor: Any) -> str | None:
    """Why the tower cannot take what the processor makes, None where it can. The processor may
    raise anything."""
    expected: tuple[int, ...]
    match shape:
        case ClipVision():
            expected = (1, 3, shape.image_size, shape.image_size)
        case InternVision():
            num_tiles, _ = grid_of(shape, processor, 30, 40)
            expected = (num_tiles, 3, shape.image_size, shape.image_size)
        case QwenVision() | Qwen3Vision():
            for key, value in _settings(shape).items():
                found = getattr(processor, key, None)
                if found != value:
                    return f"its `{key}` is {found}, and the tower's is {value}"
            rows, columns = grid_of(shape, processor, 30, 40)
            expected = (shape.num_states_of(rows * columns), shape.numbers_per_patch)
        case _:
            assert_never(shape)
    blank = prepared(shape, processor, [Image.new("RGB", (40, 30))])["pixel_values"]
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
