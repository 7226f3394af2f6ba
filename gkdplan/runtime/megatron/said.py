"""What a tower says to the decoder's first layers, layer by layer (Meng et al., "DeepStack", arXiv
2406.04334).

Legend: D layers, F tokens of images, H hidden size, S tokens of a row, B rows.
"""

from dataclasses import dataclass
from typing import Any

from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region
from torch import Tensor
from torch.nn import Module

from gkdplan.vision import VisionShape, deep_layers_of


@dataclass(frozen=True, slots=True)
class Said:
    """`features_DFH`, of which layer i is told the i-th, in their `places_F` among the tokens of
    all rows, the rows of a position side by side."""

    places_F: Tensor
    features_DFH: Tensor

    def to_layers_of(self, model: GPTModel) -> dict[str, Tensor]:
        """As arguments of a block of layers, for the `hear`ing ones: those of an attention to
        another sequence, which no decoder here has. They reach a layer that is made again too, and
        what comes second gets its gradients back (megatron/core/tensor_parallel/random.py,
        CheckpointFunction)."""
        hearing = len(model.decoder.layers)
        assert len(self.features_DFH) <= hearing, "they are all in the first chunk"
        return {"context": self.places_F, "context_mask": self.features_DFH}

    def added(self, model: GPTModel, layer: int, hidden_SBH: Tensor) -> Tensor:
        """The states after a layer, with what it is told, if anything."""
        if layer >= len(self.features_DFH):
            return hidden_SBH
        return _added(model, self.places_F, self.features_DFH[layer], hidden_SBH)


def hear(model: GPTModel, vision: VisionShape) -> None:
    """Let the first layers of a model's first chunk add what a tower says to them."""
    for layer in range(min(deep_layers_of(vision), len(model.decoder.layers))):

        def add(_: Module, __: Any, told: dict[str, Any], output: Any, layer: int = layer) -> Any:
            places_F, features_DFH = told.get("context"), told.get("context_mask")
            if places_F is None or features_DFH is None:
                return output
            hidden_SBH, context = output
            return Said(places_F, features_DFH).added(model, layer, hidden_SBH), context

        model.decoder.layers[layer].register_forward_hook(add, with_kwargs=True)


def _added(model: GPTModel, places_F: Tensor, features_FH: Tensor, hidden_SBH: Tensor) -> Tensor:
    """In their places among this rank's tokens, whose gradients are joined over the tensor axis;
    what comes is no view, so that a pipeline may free it."""
    num_places, num_rows = hidden_SBH.size(0) * hidden_SBH.size(1), hidden_SBH.size(1)
    if model.config.sequence_parallel:
        features_FH = copy_to_tensor_model_parallel_region(
            features_FH, group=model.pg_collection.tp
        )
        places_F = places_F - model.pg_collection.tp.rank() * num_places
        here = ((places_F >= 0) & (places_F < num_places)).long().nonzero().flatten()
        places_F, features_FH = places_F[here], features_FH[here]
    where = (places_F // num_rows, places_F % num_rows)
    return hidden_SBH.index_put(where, features_FH, accumulate=True)
