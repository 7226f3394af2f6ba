"""Bytes of attention from latents: what it keeps, and what passes through it.

Of a token and a rank: q elements of its queries, as many of its keys, u of what the latent of keys
and values is mapped to, v of its values. torch's fused kernel takes values that are narrower than
keys only as wide as these, filled up with zeros, so that q elements of values and of context are
there beside the v of each that mean something. Source: runtime/megatron/latent_attention.py.
"""

from gkdplan.latent import LatentShape
from gkdplan.planner.memory import gathered_attention, norms
from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.model import RankModel


def saved_bytes(model: RankModel, batch: Batch) -> int:
    """Beside the log-sum-exp and the angles: queries, keys, values and context as the kernel takes
    them, the context as the output projection does, and the norms of the latents.

    Values as wide as keys stay part of what the latent is mapped to, and context is not copied.
    """
    query = model.query_size
    elements = 4 * query + (context_size(model) if model.keeps_input_of("o_proj") else 0)
    if not _is_filled_up(model):
        elements = 3 * query + mapped_size(model)
    kept = batch.num_tokens * elements * model.dtype.num_bytes
    latent = _latent(model)
    if latent.query_rank is not None:
        is_kept = model.keeps_input_of("q_b_proj")
        kept += norms.norm_bytes(model, batch, size=latent.query_rank, is_output_kept=is_kept)
    is_kept = model.keeps_input_of("kv_b_proj")
    kept += norms.norm_bytes(model, batch, size=latent.kv_rank, is_output_kept=is_kept)
    return kept + _beside_latent_bytes(model, batch)


def forward_bytes(model: RankModel, batch: Batch) -> int:
    """What passes in attention beside the norm of its input where no backward comes: at the context
    of the filled up values, or copied from it; or where keys and values are gathered."""
    query = model.query_size
    elements = 2 * query + mapped_size(model)
    filled_up = query if _is_filled_up(model) else 0
    copied = context_size(model) if _is_filled_up(model) else 0
    attending = elements + max(filled_up + query, query + copied)
    passing = batch.num_tokens * attending * model.dtype.num_bytes
    if batch.context == 1:
        return passing
    waiting = batch.num_tokens * (elements + filled_up) * model.dtype.num_bytes
    return waiting + gathered_attention.forward_bytes(model, batch)


def backward_bytes(model: RankModel, batch: Batch) -> int:
    """What passes in the backward of attention beside what is kept: gradients of queries, keys,
    values and context as the kernel takes them, where the copied context is released. Where
    attention is computed again what was dropped is there too, and both contexts of that."""
    query, context = model.query_size, context_size(model)
    width = batch.num_tokens * model.dtype.num_bytes
    if batch.context == 1:
        passing = width * 3 * query
    else:
        passing = gathered_attention.backward_bytes(model, batch)
    released = context if model.keeps_input_of("o_proj") else 0
    elements = query - released if _is_filled_up(model) else context
    if "core_attn" in model.recompute.modules:
        elements += 2 * context
        elements += 2 * query if _is_filled_up(model) else 0
    return passing + elements * width


def dropped_bytes(model: RankModel, batch: Batch) -> int:
    """What is not kept where attention is computed again, beside its log-sum-exp: values and
    context that are filled up, but for what values are part of."""
    if not _is_filled_up(model):
        return 0
    elements = 2 * model.query_size - mapped_size(model)
    return batch.num_tokens * elements * model.dtype.num_bytes


def mapped_size(model: RankModel) -> int:
    """u: keys but for what turns, and values."""
    return model.shape.latent_kv_size // model.tensor


def context_size(model: RankModel) -> int:
    """v."""
    return model.shape.context_size // model.tensor


def _beside_latent_bytes(model: RankModel, batch: Batch) -> int:
    """What turns of the key, which stays beside the latent that its norm keeps as it is."""
    if norms.is_norm_input_copied(model):
        return 0
    tokens = batch.num_tokens // model.sequence_shards
    return tokens * _latent(model).rotated_size * model.dtype.num_bytes


def _is_filled_up(model: RankModel) -> bool:
    return _latent(model).value_dim < model.shape.head_dim


def _latent(model: RankModel) -> LatentShape:
    assert model.shape.latent is not None, "queries, keys and values come from the hidden state"
    return model.shape.latent
