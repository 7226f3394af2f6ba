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


def drawn_weights(shape: ModelShape, seed: int) -> Callable[[Slice], Tensor]:
    """What reads slices of a checkpoint that does not exist, float32.

    Matrices are normal with std 0.02, those that write to the residual stream with
    0.02 / sqrt(2 * layers) as Megatron scales them; norms scale by one and biases are zero. Each
    tensor is drawn whole from (seed, its name) and then cut.
    """
    shapes = expected_tensors(shape)
    down = names_of(shape).experts.down
    norm = torch.zeros if shape.zero_centered_norms else torch.ones

    @lru_cache(maxsize=3)
    def draw(name: str) -> Tensor:
        if name.endswith("norm.weight"):
            return norm(shapes[name])
        if name.endswith("bias"):
            return torch.zeros(shapes[name])
        writes_residual = name.endswith(("o_proj.weight", f"{down}.weight"))
        std = INIT_STD / math.sqrt(2 * shape.num_layers) if writes_residual else INIT_STD
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        return torch.randn(shapes[name], generator=generator) * std

    def read(piece: Slice) -> Tensor:
        tensor, stretch = draw(piece.tensor), slice(piece.start, piece.stop)
        return tensor[stretch] if piece.dim == 0 else tensor[:, stretch]

    return read
