"""What a chunk of layers keeps for its backward, and what is made again under recompute.

Sources: megatron/core/transformer/transformer_block.py (`_checkpointed_forward`) for "full",
megatron/core/transformer/{transformer_layer,attention}.py for "selective". A h L: bytes of a layer,
hidden states between two layers, layers of the chunk; r `recompute.num_layers`.
"""

from gkdplan.planner.memory import activations, norms
from gkdplan.planner.memory.batch import Batch, boundary_bytes
from gkdplan.planner.memory.model import RankModel


def chunk_bytes(model: RankModel, batch: Batch) -> int:
    """Kept of one micro-batch's forward through a chunk.

    None: L A. Uniform: the input of every r layers. Block: the input of each of the first r layers
    and all of the others. Selective: L A less the modules that are made again.

    The input of the first layer, embedded or received, is the input of its norm. The output of the
    last one goes to the next stage, and nothing of it is kept.
    """
    num_layers = max(model.stage.chunk_layers)
    layer = activations.layer_bytes(model, batch) - _dropped_bytes(model, batch)
    num_inputs, num_whole = inputs_and_whole_layers(model, num_layers)
    return num_inputs * boundary_bytes(model, batch) + num_whole * layer


def repeated_bytes(model: RankModel, batch: Batch) -> int:
    """Made again while all of the chunk is still kept: that of its last layers.

    Full: the layers of one unit and their output; the input of its first layer is kept, but a norm
    in float32 copies it. Selective: of one layer what it has dropped, but
    for its attention, whose backward comes after that of the MLP.
    """
    recompute, num_layers = model.recompute, max(model.stage.chunk_layers)
    if recompute.granularity == "full":
        if not _makes_last_unit_again(model):
            return 0
        num_repeated = min(layers_of_unit(model), num_layers)
        repeated = num_repeated * activations.layer_bytes(model, batch)
        if norms.is_norm_input_copied(model):
            repeated += boundary_bytes(model, batch)
        return repeated
    repeated = 0
    if "mlp" in recompute.modules or "moe" in recompute.modules:
        repeated += activations.saved_mlp_bytes(model, batch)
        repeated += boundary_bytes(model, batch)
    if "layernorm" in recompute.modules and _has_mlp_norm(model):
        repeated += norms.mlp_norm_bytes(model, batch)
    return repeated


def forward_bytes(model: RankModel, batch: Batch) -> int:
    """What passes in the forward beside what is kept, in a chunk's last layer or where experts are
    made again: in experts, or at the end of a gated MLP its output and the layer's.

    Norms in float32 keep copies; beside these are the layer's input where it is not the chunk's,
    that of its MLP or experts, and the stage's embedded input. A dense model that is made again
    needs more in its backward.
    """
    boundary = boundary_bytes(model, batch)
    is_copied = norms.is_norm_input_copied(model)
    if model.experts is None and _makes_last_unit_again(model):
        return 0
    passing = activations.passing_expert_bytes(model, batch)
    if model.experts is None:
        passing = 2 * boundary
    if "moe" in model.recompute.modules:
        return passing + repeated_bytes(model, batch)
    if _makes_last_unit_again(model):
        return passing + repeated_bytes(model, batch) + 2 * is_copied * boundary
    is_embedded = model.stage.is_first and model.trains_base
    num_inputs = min(2, max(model.stage.chunk_layers)) + is_embedded
    num_inputs = num_inputs * is_copied + ("layernorm" in model.recompute.modules)
    return passing + num_inputs * boundary


def _makes_last_unit_again(model: RankModel) -> bool:
    if model.recompute.granularity != "full":
        return False
    _, num_whole = inputs_and_whole_layers(model, max(model.stage.chunk_layers))
    return num_whole == 0


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


def _dropped_bytes(model: RankModel, batch: Batch) -> int:
    """Of one layer: the MLP between its norm and its output; of both norms all but the input; of
    attention the log-sum-exp, as its output is the projection's input.

    Transformer Engine's norms are part of the projections that follow them, so Megatron has no
    module to drop there; the norm before experts is one (gpt_layer_specs.py).
    """
    modules = model.recompute.modules
    dropped = 0
    if "mlp" in modules or "moe" in modules:
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
    return dropped
