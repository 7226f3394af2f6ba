"""A pipeline stage's part of a model, and how much of it is under way at one time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage `index` of `num_stages`, with `chunk_layers` layers in each of its chunks.

    The embedding is in the first chunk of the first stage; the final norm and the output head are
    in the last chunk of the last one.
    """

    index: int
    num_stages: int
    chunk_layers: tuple[int, ...]

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == self.num_stages - 1

    @property
    def is_whole(self) -> bool:
        return self.num_stages == 1

    @property
    def num_layers(self) -> int:
        return sum(self.chunk_layers)

    @property
    def num_chunks(self) -> int:
        return len(self.chunk_layers)

    @property
    def is_interleaved(self) -> bool:
        return self.num_chunks > 1


def whole_model(num_layers: int) -> Stage:
    """The only stage of a model without pipeline."""
    return Stage(0, 1, (num_layers,))
