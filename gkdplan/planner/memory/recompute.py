"""What a chunk of layers keeps for its backward, and what is made again under recompute.

Sources: megatron/core/transformer/transformer_block.py (`_checkpointed_forward`) for "full",
megatron/core/transformer/{transformer_layer,attention}.py for "selective". A h L: bytes of a layer,
hidden states between two layers, layers of the chunk; r `recompute.num_layers`.
"""

from gkdplan.planner.memory import activations, latents, norms
from gkdplan.planner.memory.batch import Batch, boundary_bytes
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.stage import Chunk


def chunk_bytes(model: RankModel, batch: Batch) -> tuple[int, ...]:
    """Kept of one micro-batch's forward through each chunk; through one where they are alike.

    None: L A. Uniform: the input of every r layers. Block: the input of each of the first r layers
    and all of the others. Selective: L A less the modules that are made again.

    The input of the first layer, embedded or received, is the input of its norm. The output of the
    last one goes to the next stage, and nothing of it is kept.
    """
    chunks = model.stage.chunks if model.stage.is_mixed else model.stage.chunks[:1]
    return tuple(_kept_bytes(model, batch, chunk) for chunk in chunks)


def _kept_bytes(model: RankModel, batch: Batch, chunk: Chunk) -> int:
    num_inputs, num_whole = inputs_and_whole_layers(model, chunk.num_layers)
    kept = num_inputs * boundary_bytes(model, batch)
    for number, kind in model.layers(chunk, chunk.num_layers - num_whole):
        kept += number * kept_layer_bytes(kind, batch)
    return kept


def kept_layer_bytes(model: RankModel, batch: Batch) -> int:
    """Of a layer that is not made again as a whole."""
    return activations.layer_bytes(model, batch) - _dropped_bytes(model, batch)


def repeated_unit_bytes(model: RankModel, batch: Batch, layers_bytes: int) -> int:
    """Made again of a unit: its layers and their output; the input of its first layer is kept, but
    a norm in float32 copies it."""
    return layers_bytes + norms.is_norm_input_copied(model) * boundary_bytes(model, batch)


def repeated_modules_bytes(model: RankModel, batch: Batch) -> int:
    """Made again of one layer's modules: what it has dropped, but for its attention, whose backward
    comes after that of the MLP."""
    repeated = 0
    if _makes_mlp_again(model):
        repeated += activations.saved_mlp_bytes(model, batch)
        repeated += boundary_bytes(model, batch)
    if "layernorm" in model.recompute.modules and _has_mlp_norm(model):
        repeated += norms.mlp_norm_bytes(model, batch)
    return repeated


def inputs_and_whole_layers(model: RankModel, num_layers: int) -> tuple[int, int]:
    """How many inputs of units are kept, and how many layers are kept whole."""
    recompute = model.recompute
    if recompute.granularity != "full":
        return 0, num_layers
    if recompute.method == "uniform":
        return -(-num_layers // layers_of_unit(model)), 0
    num_inputs = min(recompute.num_layers or 0, num_layers)
    return num_inputs, num_layers - num_inputs


def layers_of_unit(model: RankModel) -> int:
    """Layers that are made again at one time."""
    return model.recompute.num_layers or 1 if model.recompute.method == "uniform" else 1


def _has_mlp_norm(model: RankModel) -> bool:
    """Whether the norm before the MLP or the experts is a module of its own."""
    return not model.fused.norm_in_projection or model.experts is not None


def _makes_mlp_again(model: RankModel) -> bool:
    """Megatron has one module for the MLP of a layer, and another for its experts."""
    return ("mlp" if model.experts is None else "moe") in model.recompute.modules


def _dropped_bytes(model: RankModel, batch: Batch) -> int:
    """Of one layer: the MLP between its norm and its output; of both norms all but the input; of
    attention the log-sum-exp, as its output is the projection's input.

    Transformer Engine's norms are part of the projections that follow them, so Megatron has no
    module to drop there; the norm before experts is one (gpt_layer_specs.py).
    """
    modules = model.recompute.modules
    dropped = 0
    if _makes_mlp_again(model):
        dropped += activations.saved_mlp_bytes(model, batch)
    elif "shared_experts" in modules:
        dropped += activations.shared_expert_bytes(model, batch)
    if "layernorm" in modules and not model.fused.norm_in_projection:
        dropped += norms.attention_norm_bytes(model, batch)
        dropped -= boundary_bytes(model, batch)
    if "layernorm" in modules and _has_mlp_norm(model):
        dropped += norms.mlp_norm_bytes(model, batch)
        dropped -= boundary_bytes(model, batch)
    if "core_attn" in modules:
        dropped += activations.log_sum_exp_bytes(model, batch)
        dropped += 0 if model.shape.latent is None else latents.dropped_bytes(model, batch)
    return dropped
