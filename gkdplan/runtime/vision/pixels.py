"""The images of a micro-batch as a tower takes them, and where their features and all tokens stand.

Legend: B rows, S tokens, I images, P pixels a side, F tokens of images of a rank's share of the
rows.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pixels:
    """`values` are the numbers of all images of the rows, float32, whole on every rank, and
    `grids_I3`, int64, their frames, rows and columns of patches, where images differ by them.

    `places_F`, int64: the flattened positions b * S + s of this rank's share of the rows that hold
    a feature, rising; `features_F`, int64: which of the images' features, counted over all of them.
    """

    values: Tensor
    places_F: Tensor
    features_F: Tensor
    grids_I3: Tensor | None = None

    def to(self, device: torch.device | str) -> "Pixels":
        """The same on `device`."""
        return replace(
            self,
            values=self.values.to(device),
            places_F=self.places_F.to(device),
            features_F=self.features_F.to(device),
            grids_I3=None if self.grids_I3 is None else self.grids_I3.to(device),
        )


@dataclass(frozen=True, slots=True)
class Sight:
    """What a model that sees needs beside the tokens of rows: `pixels` where rows show images and
    the tower is on this rank, and `positions_3BS`, int64, on every rank where images have rows and
    columns; 0 for padding."""

    pixels: Pixels | None = None
    positions_3BS: Tensor | None = None

    def to(self, device: torch.device | str) -> "Sight":
        """The same on `device`."""
        pixels, positions_3BS = (
            None if part is None else part.to(device) for part in (self.pixels, self.positions_3BS)
        )
        return Sight(pixels, positions_3BS)


NO_SIGHT = Sight()


@dataclass(frozen=True, slots=True)
class PromptImage:
    """An image of one prompt, whose `num_tokens` tokens stand there from `place` on.

    `values` are its numbers as a tower takes them, in the model's dtype: [1, 3, P, P]; or
    [tiles, 3, P, P] with `token_id`, that of its tokens, where an image may have several; or
    [patches, numbers of a patch] with `grid_13`, int64, its frames, rows and columns of patches.
    """

    values: Tensor
    place: int
    num_tokens: int
    grid_13: Tensor | None = None
    token_id: int | None = None
