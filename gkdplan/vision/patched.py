"""Eyes of which an image keeps its proportions and takes as many tokens as they ask for."""

from dataclasses import dataclass
from typing import ClassVar

from gkdplan.vision.whole import Vision

TOWER = "visual."


@dataclass(frozen=True, slots=True)
class PatchedVision(Vision):
    """What the towers of Qwen's models share.

    An image is cut into patches of `patch_size` pixels a side over `temporal_patch_size` frames,
    and `merge_size` x `merge_size` of them become one token of the decoder. The decoder turns pairs
    of a head's coordinates by the time of a token, by its row and by its column:
    `rotary_sections` pairs of each.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    output_size: int
    rotary_sections: tuple[int, ...]
    image_token_id: int

    prefixes: ClassVar[tuple[str, ...]] = (TOWER,)
    """How the names of tensors begin that are not the decoder's."""
    projector: ClassVar[tuple[str, ...]] = ("visual.merger.",)
    """How those of the projector begin: the merger is part of the tower's module."""
    num_position_axes: ClassVar[int] = 3
    has_interleaved_sections: ClassVar[bool] = False
    """Whether pairs turn by time, row and column in turn, and not one section after the other."""

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
