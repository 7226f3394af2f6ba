"""The tower and the projector of a vision-language model."""

from typing import assert_never

import torch

from gkdplan.runtime.vision.clip_tower import ClipTower
from gkdplan.runtime.vision.intern_tower import InternTower
from gkdplan.runtime.vision.qwen3_tower import Qwen3Tower
from gkdplan.runtime.vision.qwen_tower import QwenTower
from gkdplan.vision import ClipVision, InternVision, Qwen3Vision, QwenVision, VisionShape

Tower = ClipTower | InternTower | QwenTower | Qwen3Tower


def build_tower(shape: VisionShape, dtype: torch.dtype) -> Tower:
    """On the host; no generator of random numbers moves."""
    with torch.random.fork_rng(devices=[]):
        match shape:
            case ClipVision():
                return ClipTower(shape, dtype)
            case InternVision():
                return InternTower(shape, dtype)
            case QwenVision():
                return QwenTower(shape, dtype)
            case Qwen3Vision():
                return Qwen3Tower(shape, dtype)
            case _:
                assert_never(shape)
