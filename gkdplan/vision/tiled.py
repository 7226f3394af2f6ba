"""Eyes that look at tiles of one size: an image is one of them, or several."""

from dataclasses import dataclass
from typing import ClassVar

from gkdplan.vision.whole import Vision

TOWER, PROJECTOR = "vision_tower.", "multi_modal_projector."
_DECODER = "language_model."


@dataclass(frozen=True, slots=True)
class TiledVision(Vision):
    """What towers share that look at tiles of `image_size` pixels a side, in patches of
    `patch_size`: each tile has as many states, and takes as many tokens of the decoder."""

    image_size: int
    patch_size: int
    activation: str
    norm_eps: float
    output_size: int
    image_token_id: int

    prefixes: ClassVar[tuple[str, ...]] = (TOWER, PROJECTOR)
    """How the names of tensors begin that are not the decoder's."""
    projector: ClassVar[tuple[str, ...]] = (PROJECTOR,)
    """How those of the projector begin."""

    @property
    def num_states(self) -> int:
        """Of a tile inside the tower: a patch each, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def tokens_per_tile(self) -> int:
        """What a tile takes of the decoder's sequence."""
        raise NotImplementedError

    def num_pixels(self, num_tokens: int) -> int:
        """Numbers that go into the tower for so many tokens of images."""
        return num_tokens // self.tokens_per_tile * 3 * self.image_size**2

    def num_states_of(self, num_tokens: int) -> int:
        """States in the tower for so many tokens of images."""
        return num_tokens // self.tokens_per_tile * self.num_states

    @classmethod
    def canonical_name(cls, name: str) -> str:
        """Of a name in a checkpoint's file."""
        return name.removeprefix(_DECODER)

    @classmethod
    def name_on_disk(cls, name: str) -> str:
        """Of a name in this project."""
        return name if name.startswith(cls.prefixes) else _DECODER + name
