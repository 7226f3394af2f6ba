"""Bytes of activations: what the backward keeps of a layer, and what passes through memory.

N tokens = rows x tokens, w bytes of an element, h hidden, F ffn, q and k the query and kv sizes of
a rank, t tensor degree, s = t under sequence parallelism, else 1.
"""

from gkdplan.planner.memory import blocked_attention, expert_activations, latents, lora, norms
from gkdplan.planner.memory.batch import Batch, boundary_bytes, gather_bytes
from gkdplan.planner.memory.model import RankModel
from gkdplan.vocab import Dtype

FP32_BYTES = 4


def layer_bytes(model: RankModel, batch: Batch) -> int:
    """What one layer keeps: two norms, attention, gated MLP.

    bf16, all fused: N/t (8h + 2(q+2k) + 2q + 2k + 2q + 6F) + 4Na/t + 8N/t, with whole sizes: the
    published formula for Megatron with flash attention and sequence parallelism.
    """
    return (
        norms.attention_norm_bytes(model, batch)
        + norms.mlp_norm_bytes(model, batch)
        + norms.output_norm_bytes(model, batch)
        + _attention_bytes(model, batch)
        + lora.saved_bytes(model, batch.num_tokens, *lora.attention_layers(model), "linear_proj")
        + saved_mlp_bytes(model, batch)
    )


def forward_bytes(model: RankModel, batch: Batch) -> int:
    """The largest sum of tensors alive at one time in a layer whose backward never comes.

    That is at the end of the gated MLP: the chunk's input, the layer's where it is another one, the
    norm's input and output, and every intermediate of the MLP, or in the experts; where these are
    narrow, in the norm before them; or in attention that goes block by block.
    """
    passing = max(_forward_bytes(kind, batch, last) for kind, last in model.last_layers)
    return max(passing, attention_forward_bytes(model, batch))


def attention_forward_bytes(model: RankModel, batch: Batch) -> int:
    """The same in attention from latents, of a chunk's last layer; 0 for other attention."""
    if model.shape.latent is None:
        return 0
    inputs = max(min(2, last + 1) for _, last in model.last_layers)
    return (inputs + 1) * boundary_bytes(model, batch) + latents.forward_bytes(model, batch)


def _forward_bytes(model: RankModel, batch: Batch, layer: int) -> int:
    """In a layer of a chunk, by its number."""
    num_inputs = min(2, layer + 1)
    boundary = boundary_bytes(model, batch)
    in_mlp = boundary + passing_mlp_bytes(model, batch.num_tokens)
    passing = (num_inputs + 1) * boundary + max(in_mlp, norms.passing_bytes(model, batch))
    scores = blocked_attention.forward_bytes(model, batch.rows, batch.tokens)
    if scores == 0:
        return passing
    return max(passing, (num_inputs + 1) * boundary + _attention_bytes(model, batch) + scores)


def attention_backward_bytes(model: RankModel, batch: Batch) -> int:
    """What the backward of attention from latents, or block by block, adds to what is kept in the
    chunk's last layer, whose MLP is released: the gradients of its output and of its context, and
    what the next stage has sent, which the schedule holds.

    Where norms are made again, that of attention's input is there with its output once more, and
    nothing of the MLP's."""
    if model.shape.latent is not None:
        passing = latents.backward_bytes(model, batch)
    else:
        scores = blocked_attention.backward_bytes(model, batch.rows, batch.tokens)
        if scores == 0:
            return 0
        passing = scores + batch.num_tokens * model.query_size * model.dtype.num_bytes
    released = saved_mlp_bytes(model, batch) + norms.mlp_norm_bytes(model, batch)
    boundary = boundary_bytes(model, batch)
    if "layernorm" in model.recompute.modules:
        passing += norms.attention_norm_bytes(model, batch)
        released += 0 if norms.is_norm_input_copied(model) else boundary
    num_gradients = 1 if model.stage.is_last else 2
    return passing + num_gradients * boundary - released


def backward_bytes(model: RankModel, batch: Batch) -> int:
    """What the backward of a chunk's last layer adds to what the forward has kept, at most.

    The gradient of its output is there: received from the next stage, or left by the final norm,
    which is released.
    """
    released = norms.final_norm_bytes(model, batch) - boundary_bytes(model, batch)
    return max(0, passing_backward_bytes(model, batch) - released)


def passing_backward_bytes(model: RankModel, batch: Batch) -> int:
    """What the backward of a layer's MLP or experts makes beside the gradient of their output.

    The most is reached either at the down projection (gradients of its input and of its weight,
    from the gathered gradient of its output under sequence parallelism) or inside the gated unit
    (two more of the MLP's width, a third where no product was kept to be released).
    """
    if model.experts is not None:
        return expert_activations.backward_bytes(model, model.experts, batch.num_tokens)
    width = model.dtype.num_bytes * model.ffn_size
    of_product = width * batch.num_tokens
    of_weight = width * model.shape.hidden_size if model.trains_base else 0
    down_projection = lora.num_gradients(model, "down_proj") * of_product + of_weight
    down_projection += gather_bytes(model, batch)
    gated_unit = (2 if model.keeps_input_of("down_proj") else 3) * of_product
    return max(down_projection, gated_unit)


def embedding_bytes(model: RankModel, batch: Batch) -> int:
    """The backward of the embedding: the gradient of the matrix, as large as it, that of its
    output, of all tokens on every tensor rank, and that of the stage's output, held to the end.

    Tensor ranks have a copy of the second, as each clears the tokens of the other ranks
    (megatron/core/tensor_parallel/layers.py, VocabParallelEmbedding). Where the matrix is that of
    the output head too, autograd then adds both gradients into a third.
    """
    matrix = model.head_elements * model.dtype.num_bytes
    num_copies = 1 if model.tensor == 1 else 2
    output = num_copies * batch.num_tokens * model.shape.hidden_size * model.dtype.num_bytes
    received = 0 if model.stage.is_last else boundary_bytes(model, batch)
    total = matrix if model.shape.tied_embeddings and model.stage.is_whole else 0
    return matrix + max(output + received, total)


def input_bytes(model: RankModel, batch: Batch) -> int:
    """A received input beside what the first layer keeps of it: where the norm works in float32 it
    keeps a copy, and the pipeline's schedule the input."""
    return boundary_bytes(model, batch) if norms.is_norm_input_copied(model) else 0


def routing_bytes(model: RankModel, batch: Batch) -> int:
    """What the dispatchers of a stage's experts hold from one forward to the next."""
    if model.experts is None:
        return 0
    layer = expert_activations.routing_bytes(model, model.experts, batch.num_tokens)
    return sum(chunk.num_with_experts() for chunk in model.stage.chunks) * layer


def passing_mlp_bytes(model: RankModel, num_tokens: int) -> int:
    """Beside its input, what is alive at one time in a layer's MLP, or in its experts: in the layer
    where it is most."""
    return max(
        mlp_bytes(kind, num_tokens)
        if kind.experts is None
        else expert_activations.forward_bytes(kind, kind.experts, num_tokens)
        for kind in model.kinds
    )


def mlp_bytes(model: RankModel, num_tokens: int, *, is_product_kept: bool = True) -> int:
    """Gate and up in one tensor, and their product; unfused also the activated gate and the up
    half, which Megatron copies by adding an offset of zero (megatron/core/transformer/mlp.py)."""
    num_widths = (2 if model.fused.swiglu else 4) + is_product_kept
    return num_tokens * num_widths * model.ffn_size * model.dtype.num_bytes


def response_bytes(model: RankModel, num_response_tokens: int) -> int:
    """The final hidden states as the loss takes them, those of response tokens."""
    return num_response_tokens * model.shape.hidden_size * model.dtype.num_bytes


def saved_mlp_bytes(model: RankModel, batch: Batch) -> int:
    if model.experts is not None:
        return expert_activations.saved_bytes(model, model.experts, batch.num_tokens)
    is_kept = model.keeps_input_of("down_proj")
    own = mlp_bytes(model, batch.num_tokens, is_product_kept=is_kept)
    return own + lora.saved_bytes(model, batch.num_tokens, *lora.MLP)


def shared_expert_bytes(model: RankModel, batch: Batch) -> int:
    """Of what the experts keep, the share of the expert that all tokens pass."""
    if model.experts is None:
        return 0
    return expert_activations.shared_bytes(model, model.experts, batch.num_tokens)


def passing_expert_bytes(model: RankModel, batch: Batch) -> int:
    """What passes in the experts' forward beside what they keep."""
    if model.experts is None:
        return 0
    return expert_activations.training_forward_bytes(model, model.experts, batch.num_tokens)


def _attention_bytes(model: RankModel, batch: Batch) -> int:
    """Fused projection (the values stay part of it), rotated queries and keys, context, and the
    attention kernel's float32 log-sum-exp a head. A layer that is not rotated keeps less, by its
    keys and its angles, and is priced as the others are."""
    angles = 0 if model.fused.rope else 4 * _num_angles(model, batch)
    if model.shape.latent is not None:
        return (
            latents.saved_bytes(model, batch)
            + log_sum_exp_bytes(model, batch)
            + angles * model.dtype.num_bytes
        )
    elements = model.qkv_size + 2 * model.query_size + model.kv_size
    per_token = model.dtype.num_bytes * elements
    if model.shape.qk_norm_of_all_heads:
        per_token += norms.all_heads_norm_bytes(model)
    elif model.shape.qk_norm:
        per_token += norms.head_norm_bytes(model)
    if _is_context_copied(model):
        per_token += model.dtype.num_bytes * model.query_size
    return (
        batch.num_tokens * per_token
        + log_sum_exp_bytes(model, batch)
        + angles * model.dtype.num_bytes
        + norms.head_scale_bytes(model)
    )


def _is_context_copied(model: RankModel) -> bool:
    """Where a rank has several kv heads, each of several query heads."""
    is_grouped = model.shape.num_attention_heads // model.tensor > model.num_kv_heads > 1
    return is_grouped and model.dtype is Dtype.FP32 and not model.fused.fp32_context


def log_sum_exp_bytes(model: RankModel, batch: Batch) -> int:
    heads = model.shape.num_attention_heads // model.tensor
    return batch.num_tokens * FP32_BYTES * heads


def angle_bytes(model: RankModel, batch: Batch) -> int:
    """Megatron's cache of float32 rotary angles for this sequence length, made once
    (megatron/core/models/common/embeddings/rotary_pos_embedding.py); two of them where sliding
    layers turn by a base of their own. Where tokens stand in more than one order the angles are
    those of a micro-batch's rows, made for each and priced as if they stayed."""
    num_tables = 1 if model.shape.attention.sliding_rope_theta is None else 2
    return num_tables * _num_angles(model, batch) * FP32_BYTES


def _num_angles(model: RankModel, batch: Batch) -> int:
    """Of the positions of a row, which all rows share but those that images stand in."""
    vision = model.shape.vision
    is_of_rows = vision is not None and vision.num_position_axes > 1
    return (batch.num_tokens if is_of_rows else batch.tokens) * model.rotated_size
