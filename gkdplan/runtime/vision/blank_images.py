"""Images that fill a plan and have no contents, for a step that runs on shapes alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl

from gkdplan.pictures import Picture
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.vision.images import Eyes, Shown
from gkdplan.vision import PatchedVision, TiledVision, VisionShape

_READERS = (
    "get_vision_position_ids",
    "get_vision_attention_seqlens",
    "get_vision_window_index",
    "get_vision_interpolation_indices_and_weights",
)
"""What the modules of transformers read out of the grids of images."""


@dataclass(frozen=True, slots=True)
class BlankEyes(Eyes):
    """See as many zeros as the tokens of what is shown ask for."""

    def pixels(self, all_shown: Sequence[Shown]) -> tuple[Tensor, Tensor | None]:
        num_tokens = sum(one.num_tokens for one in all_shown)
        if isinstance(self.shape, TiledVision):
            side = self.shape.image_size
            return torch.zeros(num_tokens // self.shape.tokens_per_tile, 3, side, side), None
        num_patches = self.shape.num_states_of(num_tokens)
        grids_I3 = torch.zeros(len(all_shown), 3, dtype=torch.int64)
        return torch.zeros(num_patches, self.shape.numbers_per_patch), grids_I3


def image_of_row(plan: RunPlan) -> Shown | None:
    """All that a prompt which fills the plan shows, as one image."""
    vision, pictures = plan.models.student.shape.vision, plan.data.pictures
    if vision is None or pictures is None:
        return None
    num_tokens = vision.most_tokens(pictures.number, plan.data.max_length)
    return _image(num_tokens) if num_tokens else None


def _image(num_tokens: int) -> Shown:
    """As near to a square as so many tokens can be."""
    rows = next(rows for rows in range(isqrt(num_tokens), 0, -1) if num_tokens % rows == 0)
    return Shown(Picture(), "", "", (rows, num_tokens // rows))


@contextmanager
def known_grids(shape: VisionShape | None, shown: Shown | None) -> Iterator[None]:
    """Where tensors have no contents, towers read the grids of images as `shown` has them."""
    if not isinstance(shape, PatchedVision) or shown is None:
        yield
        return
    rows, columns = (number * shape.merge_size for number in shown.grid)
    with ExitStack() as stack:
        for module in (modeling_qwen2_5_vl, modeling_qwen3_vl):
            for name in _READERS:
                if reader := getattr(module, name, None):
                    stand_in = _knowing(reader, [1, rows, columns])
                    stack.enter_context(patch.object(module, name, stand_in))
        yield


def _knowing(reader: Callable[..., Any], grid: list[int]) -> Callable[..., Any]:
    """The reader, which is given the contents; bounds of sequences, whose contents split tensors,
    come as numpy's arrays, and all else as tensors without contents."""

    def read(grids_I3: Tensor, *args: Any, **options: Any) -> Any:
        num_images = len(grids_I3)
        with _disable_current_modes():
            found = reader(torch.tensor([grid] * num_images), *args, **options)
        parts = found if isinstance(found, tuple) else (found,)
        blank = tuple(_blank(part) for part in parts)
        return blank if isinstance(found, tuple) else blank[0]

    return read


def _blank(part: Any) -> Any:
    if not isinstance(part, Tensor):
        return part
    with _disable_current_modes():
        is_bounds = part.dim() == 1 and part.dtype is torch.int32
        content = part.numpy() if is_bounds else None
    return torch.zeros(part.shape, dtype=part.dtype) if content is None else content
