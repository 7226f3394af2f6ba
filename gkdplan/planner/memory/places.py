"""Layers of a stage in which the forward or the backward of a micro-batch can be at its peak.

Where layers are alike that is a chunk's last one. Where some have experts and others not, one kind
may need more than the other keeps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gkdplan.planner.memory import activations, norms, recompute
from gkdplan.planner.memory.batch import Batch, boundary_bytes
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.stage import Chunk


@dataclass(frozen=True, slots=True)
class Place:
    """A layer, and what is there beside all that its chunk keeps.

    `model` is as the layer has it. `repeated` bytes are made again, those of a unit of layers where
    it `is_in_unit`; `freed` bytes are those of later layers, which are not there yet in a forward,
    and no more in a backward. `num_inputs` counts the layer's input, and the chunk's where that is
    another one. `chunk` is the stage's, by its number.
    """

    model: RankModel
    repeated: int
    freed: int = 0
    num_inputs: int = 1
    is_last: bool = True
    is_in_unit: bool = False
    chunk: int = 0

    def forward_bytes(self, batch: Batch) -> int:
        """What passes in the forward, in experts, or at the end of a gated MLP its output and the
        layer's.

        Norms in float32 keep copies; beside these are the layer's input where it is not the
        chunk's, that of its MLP or experts, and the stage's embedded input. A gated MLP in a unit
        that is made again needs more in its backward.
        """
        model, boundary = self.model, boundary_bytes(self.model, batch)
        is_copied = norms.is_norm_input_copied(model)
        if model.experts is None and self.is_in_unit:
            return 0
        passing = activations.passing_expert_bytes(model, batch)
        if model.experts is None:
            passing = 2 * boundary
        elif "moe" in model.recompute.modules:
            return passing + self.repeated
        if self.is_in_unit:
            return passing + self.repeated + 2 * is_copied * boundary
        is_embedded = model.stage.is_first and model.trains_base
        num_inputs = self.num_inputs + is_embedded
        num_inputs = num_inputs * is_copied + ("layernorm" in model.recompute.modules)
        return passing + num_inputs * boundary

    def backward_bytes(self, batch: Batch) -> int:
        """What the backward of the layer adds, with the final norm's share, which is there until
        the last layer of a model is reached."""
        if not self.is_last:
            passing = activations.passing_backward_bytes(self.model, batch)
            return self.repeated + boundary_bytes(self.model, batch) + passing
        norm = norms.final_norm_bytes(self.model, batch)
        return norm + self.repeated + activations.backward_bytes(self.model, batch)

    def attention_bytes(self, batch: Batch) -> int:
        """What the backward of attention that goes block by block adds; 0 elsewhere."""
        passing = activations.attention_backward_bytes(self.model, batch)
        return self.repeated + passing if passing else 0


def places(model: RankModel, batch: Batch) -> tuple[Place, ...]:
    """Of the stage, one of each kind at least."""
    if not model.stage.is_mixed:
        return (_last_place(model, batch),)
    return tuple(
        replace(place, chunk=number)
        for number, chunk in enumerate(model.stage.chunks)
        for place in _places(model, batch, chunk)
    )


def most_by_chunk(places: Sequence[Place], bytes_of: Callable[[Place], int]) -> dict[int, int]:
    """Of each chunk the most that one of its layers adds to what the chunk keeps."""
    most: dict[int, int] = {}
    for place in places:
        added = bytes_of(place) - place.freed
        most[place.chunk] = max(added, most.get(place.chunk, added))
    return most


def _last_place(model: RankModel, batch: Batch) -> Place:
    num_layers = max(model.stage.chunk_layers)
    num_inputs = min(2, num_layers)
    if not _are_units(model, num_layers):
        modules = recompute.repeated_modules_bytes(model, batch)
        return Place(model, modules, num_inputs=num_inputs)
    num_repeated = min(recompute.layers_of_unit(model), num_layers)
    layers = num_repeated * activations.layer_bytes(model, batch)
    repeated = recompute.repeated_unit_bytes(model, batch, layers)
    return Place(model, repeated, num_inputs=num_inputs, is_in_unit=True)


def _are_units(model: RankModel, num_layers: int) -> bool:
    """Whether all layers are made again."""
    if model.recompute.granularity != "full":
        return False
    return recompute.inputs_and_whole_layers(model, num_layers)[1] == 0


def _places(model: RankModel, batch: Batch, chunk: Chunk) -> Iterator[Place]:
    """From the chunk's last layer to its first."""
    num_layers = chunk.num_layers
    with_experts, dense = model.kinds
    kinds = [dense if n in chunk.dense_layers else with_experts for n in range(num_layers)]
    _, num_whole = recompute.inputs_and_whole_layers(model, num_layers)
    first_whole, freed = num_layers - num_whole, 0
    for layer in reversed(range(first_whole, num_layers)):
        kind = kinds[layer]
        yield Place(
            kind,
            recompute.repeated_modules_bytes(kind, batch),
            freed,
            min(2, layer + 1),
            is_last=layer == num_layers - 1,
        )
        freed += recompute.kept_layer_bytes(kind, batch)
    length = recompute.layers_of_unit(model)
    for start in reversed(range(0, first_whole, length)):
        layers = 0
        for layer in range(start, min(start + length, first_whole)):
            layers += activations.layer_bytes(kinds[layer], batch)
            yield Place(
                kinds[layer],
                recompute.repeated_unit_bytes(model, batch, layers),
                freed,
                min(2, layer + 1),
                is_last=layer == num_layers - 1,
                is_in_unit=True,
            )
        freed += boundary_bytes(model, batch)
