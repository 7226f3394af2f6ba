"""The images of a micro-batch as a tower takes them, and where their features stand.

Legend: F tokens of images of a rank's share of the rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pixels:
    """`values` are the numbers of all images of the rows, float32, whole on every rank.

    `places_F`, int64: the flattened positions b * S + s of this rank's share of the rows that hold
    a feature, rising; `features_F`, int64: which of the images' features, counted over all of them.
    """

    values: Tensor
    places_F: Tensor
    features_F: Tensor

    def to(self, device: torch.device | str) -> "Pixels":
        """The same on `device`."""
        return Pixels(self.values.to(device), self.places_F.to(device), self.features_F.to(device))
