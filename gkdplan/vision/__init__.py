"""The eyes of a vision-language model as numbers: its tower and the projector to its decoder.

A vision-language model is the decoder of a `ModelShape`, whose `vision` is one of these. Tensors
are named as transformers 5 writes them; the decoder's own are named as if it stood alone, and
`canonical_name` and `name_on_disk` translate.
"""

from gkdplan.vision.clip import ClipVision
from gkdplan.vision.qwen import QwenVision

__all__ = ["ClipVision", "QwenVision", "VisionShape", "canonical_name", "name_on_disk"]

VisionShape = ClipVision | QwenVision


def canonical_name(vision: VisionShape | None, name: str) -> str:
    """The name in this project of a tensor of a checkpoint's file."""
    return name if vision is None else vision.canonical_name(name)


def name_on_disk(vision: VisionShape | None, name: str) -> str:
    """The name that transformers gives the tensor in a file."""
    return name if vision is None else vision.name_on_disk(name)
