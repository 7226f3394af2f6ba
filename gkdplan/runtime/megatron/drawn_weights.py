"""Random weights, the same whatever the layout."""

import math
import zlib
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from gkdplan.families.tensors import expected_tensors, names_of
from gkdplan.runtime.megatron.hf_layout import Slice
from gkdplan.shape import ModelShape

INIT_STD = 0.02
LAYER_SCALE = 0.1
"""InternVL's (models/internvl/configuration_internvl.py, layer_scale_init_value)."""


def drawn_weights(shape: ModelShape, seed: int) -> Callable[[Slice], Tensor]:
    """What reads slices of a checkpoint that does not exist, float32.

    Matrices are normal with std 0.02, those that write to the residual stream with
    0.02 / sqrt(2 * layers) as Megatron scales them; norms scale by one and biases are zero. Of
    a tower and its projector all but norms, biases and what scales a layer's output, which begins
    at 0.1 as in transformers, is normal with std 0.02. Each tensor is drawn whole from (seed, its
    name) and then cut.
    """
    eyes = {} if shape.vision is None else shape.vision.tensors()
    shapes = expected_tensors(shape)
    down = names_of(shape).experts.down
    norm = torch.zeros if shape.zero_centered_norms else torch.ones

    @lru_cache(maxsize=3)
    def draw(name: str) -> Tensor:
        if name in eyes and (value := _begin_of_eyes(name, len(eyes[name]))) is not None:
            return torch.full(eyes[name], value)
        if name not in eyes and name.endswith("norm.weight"):
            return norm(shapes[name])
        if name.endswith("bias"):
            return torch.zeros(shapes[name])
        writes_residual = name not in eyes and name.endswith(("o_proj.weight", f"{down}.weight"))
        std = INIT_STD / math.sqrt(2 * shape.num_layers) if writes_residual else INIT_STD
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        return torch.randn(shapes[name], generator=generator) * std

    def read(piece: Slice) -> Tensor:
        tensor, stretch = draw(piece.tensor), slice(piece.start, piece.stop)
        return tensor[stretch] if piece.dim == 0 else tensor[:, stretch]

    return read


def _begin_of_eyes(name: str, num_dims: int) -> float | None:
    """The value of a tower's tensor that is not drawn."""
    if num_dims == 1 and name.endswith("weight"):
        return 1.0
    return LAYER_SCALE if ".lambda_" in name else None
