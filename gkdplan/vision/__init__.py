"""The eyes of a vision-language model as numbers: its tower and the projector to its decoder.

A vision-language model is the decoder of a `ModelShape`, whose `vision` is one of these. Tensors
are named as transformers 5 writes them; the decoder's own are named as if it stood alone, and
`canonical_name` and `name_on_disk` translate.
"""

from gkdplan.vision.clip import ClipVision
from gkdplan.vision.intern import InternVision
from gkdplan.vision.patched import PatchedVision
from gkdplan.vision.qwen import QwenVision
from gkdplan.vision.qwen3 import Qwen3Vision
from gkdplan.vision.tiled import TiledVision

__all__ = [
    "ClipVision",
    "InternVision",
    "PatchedVision",
    "Qwen3Vision",
    "QwenVision",
    "TiledVision",
    "VisionShape",
    "canonical_name",
    "deep_layers_of",
    "name_on_disk",
]

VisionShape = ClipVision | InternVision | QwenVision | Qwen3Vision


def deep_layers_of(vision: VisionShape | None) -> int:
    """The decoder's first layers after which a tower speaks again."""
    return len(vision.deep_layers) if isinstance(vision, Qwen3Vision) else 0


def canonical_name(vision: VisionShape | None, name: str) -> str:
    """The name in this project of a tensor of a checkpoint's file."""
    return name if vision is None else vision.canonical_name(name)


def name_on_disk(vision: VisionShape | None, name: str) -> str:
    """The name that transformers gives the tensor in a file."""
    return name if vision is None else vision.name_on_disk(name)
