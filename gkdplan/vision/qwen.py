"""Qwen2.5-VL's eyes: an image keeps its proportions and takes as many tokens as they ask for."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from gkdplan.vision.tensors import Shapes, linear

TOWER = "visual."


@dataclass(frozen=True, slots=True)
class QwenVision:
    """The vision transformer of Qwen2.5-VL (Bai et al., arXiv 2502.13923) with its merger.

    An image keeps its proportions: it is cut into patches of `patch_size` pixels a side over
    `temporal_patch_size` frames, and `merge_size` x `merge_size` of them become one token of the
    decoder. Layers look inside windows of `window_size` pixels, those of `full_layers` at all of
    the image. The decoder turns the first coordinates of a head by the time of a token, the next
    by its row and the last by its column: `rotary_sections` pairs of each.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    full_layers: tuple[int, ...]
    output_size: int
    rotary_sections: tuple[int, ...]
    image_token_id: int

    prefixes: ClassVar[tuple[str, ...]] = (TOWER,)
    """How the names of tensors begin that are not the decoder's."""
    projector: ClassVar[str] = "visual.merger."
    """How those of the projector begin: the merger is part of the tower's module."""
    num_position_axes: ClassVar[int] = 3
    """Numbers that say where a token stands."""

    @property
    def patches_per_token(self) -> int:
        return self.merge_size**2

    @property
    def numbers_per_patch(self) -> int:
        """What goes into the tower: three colours of every pixel, of each frame."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    def most_tokens(self, num_images: int, num_tokens: int) -> int:
        """What `num_images` take of a sequence at most that has room for `num_tokens`: an image may
        fill it."""
        return num_tokens if num_images else 0

    def num_pixels(self, num_tokens: int) -> int:
        """Numbers that go into the tower for so many tokens of images."""
        return self.num_states_of(num_tokens) * self.numbers_per_patch

    def num_states_of(self, num_tokens: int) -> int:
        """States in the tower, one a patch, for so many tokens of images."""
        return num_tokens * self.patches_per_token

    @property
    def as_cut(self) -> dict[str, int]:
        """What a sequence of both models needs the other to have as well, by its name."""
        return {
            "pixels a side of a patch": self.patch_size,
            "frames in a patch": self.temporal_patch_size,
            "patches a side of an image's token": self.merge_size,
            "as the id of the image token": self.image_token_id,
        }

    def tensors(self) -> Shapes:
        """Names and shapes, in the order of the modules' parameters."""
        hidden, patch, ffn = self.hidden_size, self.patch_size, self.ffn_hidden_size
        tensors: Shapes = {
            "patch_embed.proj.weight": (hidden, 3, self.temporal_patch_size, patch, patch)
        }
        for index in range(self.num_layers):
            prefix = f"blocks.{index}"
            tensors |= {f"{prefix}.norm{number}.weight": (hidden,) for number in (1, 2)}
            tensors |= linear(f"{prefix}.attn.qkv", hidden, 3 * hidden)
            tensors |= linear(f"{prefix}.attn.proj", hidden, hidden)
            for name in ("gate", "up"):
                tensors |= linear(f"{prefix}.mlp.{name}_proj", hidden, ffn)
            tensors |= linear(f"{prefix}.mlp.down_proj", ffn, hidden)
        merged = hidden * self.merge_size**2
        tensors["merger.ln_q.weight"] = (hidden,)
        tensors |= linear("merger.mlp.0", merged, merged)
        tensors |= linear("merger.mlp.2", merged, self.output_size)
        return {TOWER + name: size for name, size in tensors.items()}

    @property
    def num_parameters(self) -> int:
        return sum(map(prod, self.tensors().values()))

    @classmethod
    def canonical_name(cls, name: str) -> str:
        """Of a name in a checkpoint's file."""
        return name

    @classmethod
    def name_on_disk(cls, name: str) -> str:
        """Of a name in this project."""
        return name
