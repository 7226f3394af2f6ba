"""A pipeline stage's part of a model, and how much of it is under way at one time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """Layers that run one after the other; those of `dense_layers`, counted from its first, have no
    experts where the others have."""

    num_layers: int
    dense_layers: tuple[int, ...] = ()

    def num_dense(self, first: int = 0) -> int:
        """Of the layers from one on."""
        return sum(layer >= first for layer in self.dense_layers)

    def num_with_experts(self, first: int = 0) -> int:
        """Of the layers from one on."""
        return self.num_layers - first - self.num_dense(first)


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage `index` of `num_stages`, with `chunk_layers` layers in each of its chunks.

    The embedding is in the first chunk of the first stage; the final norm and the output head are
    in the last chunk of the last one. `dense_layers` are those of each chunk, and nothing where all
    layers of the stage are alike.
    """

    index: int
    num_stages: int
    chunk_layers: tuple[int, ...]
    dense_layers: tuple[tuple[int, ...], ...] = ()

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
    def is_mixed(self) -> bool:
        """Whether some of its layers have experts and others not."""
        return bool(self.dense_layers)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        dense = self.dense_layers or ((),) * self.num_chunks
        return tuple(map(Chunk, self.chunk_layers, dense))

    @property
    def num_layers(self) -> int:
        return sum(self.chunk_layers)

    @property
    def num_chunks(self) -> int:
        return len(self.chunk_layers)

    @property
    def is_interleaved(self) -> bool:
        return self.num_chunks > 1


def whole_model(num_layers: int, dense_layers: tuple[int, ...] = ()) -> Stage:
    """The only stage of a model without pipeline."""
    return Stage(0, 1, (num_layers,), (dense_layers,) if dense_layers else ())
