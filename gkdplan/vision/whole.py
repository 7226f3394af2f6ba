"""What is alike of all eyes: their tensors, by name."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from gkdplan.vision.tensors import Shapes


@dataclass(frozen=True, slots=True)
class Vision:
    """A tower of `num_layers` layers before a projector to the decoder's width."""

    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_hidden_size: int

    num_position_axes: ClassVar[int] = 1
    """Numbers that say where a token stands."""
    has_marks: ClassVar[bool] = False
    """Whether the tokens of an image stand between two marks that no chat template writes."""

    def tensors(self) -> Shapes:
        """Names and shapes, in the order of the modules' parameters."""
        raise NotImplementedError

    def is_read(self, name: str) -> bool:
        """Whether the features of an image depend on the tensor."""
        return True

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
