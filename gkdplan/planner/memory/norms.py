"""Bytes that norms keep for the backward, wherever a family puts them."""

from gkdplan.planner.memory.batch import Batch, boundary_bytes
from gkdplan.planner.memory.model import RankModel

FP32_BYTES = 4
_OF_HIDDEN_STATES = ("q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa")
"""What multiplies the input of attention."""


def final_norm_bytes(model: RankModel, batch: Batch) -> int:
    """What the norm before the head keeps; the loss takes what it needs of its output."""
    if not model.stage.is_last:
        return 0
    return norm_bytes(model, batch) - boundary_bytes(model, batch)


def attention_norm_bytes(model: RankModel, batch: Batch) -> int:
    is_kept = model.keeps_input_of(*_OF_HIDDEN_STATES)
    return _input_norm_bytes(model, batch, is_output_kept=is_kept)


def mlp_norm_bytes(model: RankModel, batch: Batch) -> int:
    """A router keeps its input also where it is frozen
    (megatron/core/transformer/moe/moe_utils.py, RouterGatingLinearFunction)."""
    is_kept = model.experts is not None or model.keeps_input_of("gate_proj", "up_proj")
    return _input_norm_bytes(model, batch, is_output_kept=is_kept)


def output_norm_bytes(model: RankModel, batch: Batch) -> int:
    """Norms of what attention and MLP give; the residual sum keeps nothing of their outputs."""
    if model.shape.norms == "pre":
        return 0
    return 2 * norm_bytes(model, batch, is_output_kept=False)


def _input_norm_bytes(model: RankModel, batch: Batch, *, is_output_kept: bool) -> int:
    """Where there is no norm of the input, the projection keeps the layer's own."""
    if model.shape.norms == "post":
        return boundary_bytes(model, batch) if is_output_kept else 0
    return norm_bytes(model, batch, is_output_kept=is_output_kept)


def norm_bytes(
    model: RankModel, batch: Batch, *, size: int | None = None, is_output_kept: bool = True
) -> int:
    """Input, reciprocal deviation and output, of `size` features or of hidden states; torch's own
    norm works in float32 and keeps the normalised input too, for the gradient of its weight."""
    hidden, width = model.shape.hidden_size if size is None else size, model.dtype.num_bytes
    unfused = (2 if model.trains_base else 1) * FP32_BYTES
    fused = FP32_BYTES if is_norm_input_copied(model) else width
    kept = (fused if model.fused.norm else unfused) + (width if is_output_kept else 0)
    tokens = batch.num_tokens // model.sequence_shards
    return tokens * (kept * hidden + FP32_BYTES) + _scale_bytes(model, hidden)


def passing_bytes(model: RankModel, batch: Batch) -> int:
    """What passes in a norm beside its input where no backward comes. Torch's own norm works in
    float32 from a copy of a narrower input: what is normalised, and that times the weight, are
    there together before the output is narrowed; fused, the output alone."""
    hidden = model.shape.hidden_size
    tokens = batch.num_tokens // model.sequence_shards
    return tokens * (passing_width(model) * hidden + FP32_BYTES) + _scale_bytes(model, hidden)


def passing_width(model: RankModel) -> int:
    """Bytes of a feature of `passing_bytes`."""
    if model.fused.norm and not model.has_float32_scales:
        return model.dtype.num_bytes
    num_made = 1 if model.fused.norm else 2
    return FP32_BYTES * (num_made + is_norm_input_copied(model))


def is_norm_input_copied(model: RankModel) -> bool:
    """Whether a norm keeps a float32 copy of its input in place of the input."""
    is_unfused = not model.fused.norm or model.has_float32_scales
    return is_unfused and model.dtype.num_bytes < FP32_BYTES


def _scale_bytes(model: RankModel, num_features: int) -> int:
    """1 + weight, which a zero-centered norm of torch keeps in float32."""
    return num_features * FP32_BYTES if model.has_float32_scales else 0


def head_norm_bytes(model: RankModel) -> int:
    """A token's share of the q and k norms. Queries of several kv heads are copied out of the
    fused projection before the norm."""
    num_deviations = model.shape.num_attention_heads // model.tensor + model.num_kv_heads
    width = model.dtype.num_bytes
    copied = model.query_size if model.num_kv_heads > 1 else 0
    if model.fused.norm and not model.has_float32_scales:
        return width * copied + FP32_BYTES * num_deviations
    whole = model.query_size + model.kv_size
    inputs = copied if width == FP32_BYTES else whole
    normalised = whole if model.trains_base else 0
    return FP32_BYTES * (inputs + normalised + num_deviations)


def all_heads_norm_bytes(model: RankModel) -> int:
    """A token's share of the norms over all heads, which are torch's everywhere: the input where it
    is copied, out of the fused projection or to float32, what is normalised, and two deviations."""
    whole = model.query_size + model.kv_size
    is_copied = model.num_kv_heads > 1 or model.dtype.num_bytes < FP32_BYTES
    num_copies = is_copied + model.trains_base
    return FP32_BYTES * (num_copies * whole + 2)


def head_scale_bytes(model: RankModel) -> int:
    """The weights of q and k norms in float32, where they are kept as such."""
    if not model.shape.qk_norm:
        return 0
    if not model.shape.qk_norm_of_all_heads:
        return _scale_bytes(model, 2 * model.shape.head_dim)
    is_copied = model.dtype.num_bytes < FP32_BYTES
    return FP32_BYTES * (model.query_size + model.kv_size) if is_copied else 0
