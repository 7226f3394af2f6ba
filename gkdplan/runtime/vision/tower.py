"""The tower and the projector of a vision-language model."""

from typing import assert_never

import torch

from gkdplan.runtime.vision.clip_tower import ClipTower
from gkdplan.runtime.vision.qwen_tower import QwenTower
from gkdplan.vision import ClipVision, QwenVision, VisionShape


def build_tower(shape: VisionShape, dtype: torch.dtype) -> ClipTower | QwenTower:
    """On the host; no generator of random numbers moves."""
    with torch.random.fork_rng(devices=[]):
        match shape:
            case ClipVision():
                return ClipTower(shape, dtype)
            case QwenVision():
                return QwenTower(shape, dtype)
            case _:
                assert_never(shape)
