"""Bytes of activations that low-rank adapters add, as runtime/megatron/lora makes them.

N tokens of a micro-batch, r rank, w bytes of an element, t tensor degree, s = t under sequence
parallelism, else 1. What the frozen base no longer keeps is left out where it is priced: a linear
layer's input and a norm's normalised input serve only the gradients of their weights.
"""

from gkdplan.planner.memory.adapters import ROW_PARALLEL, WHOLE, adapted
from gkdplan.planner.memory.model import RankModel

MLP = ("linear_fc1", "linear_fc2")
"""Megatron's linear layers of a gated MLP."""


def attention_layers(model: RankModel) -> tuple[str, ...]:
    """Megatron's linear layers of attention, but for its output projection."""
    latent = model.shape.latent
    if latent is None:
        return ("linear_qkv",)
    of_keys_and_values = ("linear_kv_down_proj", "linear_kv_up_proj")
    if latent.query_rank is None:
        return ("linear_q_proj", *of_keys_and_values)
    return ("linear_q_down_proj", "linear_q_up_proj", *of_keys_and_values)


def saved_bytes(model: RankModel, num_tokens: int, *layers: str) -> int:
    """What the adapters of these linear layers keep for the backward, 0 where there are none.

    The narrow middle of each target: N r w where the layer is column-parallel, N r w / s where it
    is row-parallel or whole. With dropout also its result, N in / s w or N in / t w, and its mask.
    """
    lora = model.lora
    if lora is None:
        return 0
    width, total = model.dtype.num_bytes, 0
    for layer in layers:
        targets = adapted(lora, layer)
        is_row = layer in ROW_PARALLEL
        middle = num_tokens // (model.sequence_shards if is_row or layer in WHOLE else 1)
        total += middle * len(targets) * lora.rank * width
        if targets and lora.dropout > 0.0:
            inputs = num_tokens * model.shape.projection_size(targets[0])[1]
            inputs //= model.tensor if is_row else model.sequence_shards
            total += inputs * (width + model.fused.dropout_mask_bytes(model.dtype))
    return total


def num_middles(model: RankModel, layer: str) -> int:
    """Features of the narrow middles of one of Megatron's linear layers."""
    return 0 if model.lora is None else len(adapted(model.lora, layer)) * model.lora.rank


def num_gradients(model: RankModel, *projections: str) -> int:
    """Gradients of these projections' input that exist before they are added up: the layer's own,
    and that of its adapter."""
    lora = model.lora
    return 2 if lora is not None and any(map(lora.target_of, projections)) else 1
