"""Bytes of the activations of a layer's experts, every expert taking an equal share of the tokens.

n tokens of a rank (divided over the tensor axis under sequence parallelism), k experts a token of E
in all, w bytes of an element, h hidden. A rank's experts work on r = n k x rows, x their tensor
degree: their ranks exchange rows, and gather those of their tensor axis. The router and the
probability that comes with each row are float32. Source:
megatron/core/transformer/moe/{router,token_dispatcher,moe_utils,experts,shared_experts}.py, the
all-to-all dispatcher without fused permutation.
"""

from gkdplan.experts import MoeShape
from gkdplan.planner.memory import lora
from gkdplan.planner.memory.experts import ExpertShare
from gkdplan.planner.memory.model import RankModel

FP32_BYTES = 4
INT64_BYTES = 8


def saved_bytes(model: RankModel, share: ExpertShare, num_tokens: int) -> int:
    """What a layer keeps for its backward, beside `routing_bytes`.

    Of the router: its scores, copies of probabilities and map turned by experts, and the chosen
    experts. Of each row: the expert's input, its probability, and of the gated MLP gate and up, the
    activated gate, a copy of the up half, their product, and the product scaled by the probability.
    """
    moe, width, hidden = share.moe, model.dtype.num_bytes, model.shape.hidden_size
    tokens = num_tokens // model.sequence_shards
    router = FP32_BYTES * _num_scores(moe) + (FP32_BYTES + 1) * moe.num_experts
    router += INT64_BYTES * moe.num_experts_per_token
    taken = hidden if model.keeps_input_of("gate_proj", "up_proj") else 0
    row = width * (taken + num_widths_kept(model) * share.ffn_size) + FP32_BYTES
    row += width * sum(lora.num_middles(model, layer) for layer in lora.MLP)
    return (
        tokens * router
        + num_rows(model, share, num_tokens) * row
        + shared_bytes(model, share, num_tokens)
        + _balance_bytes(model, share, tokens)
    )


def _num_scores(moe: MoeShape) -> int:
    """Of a token: a softmax over all experts or over the chosen ones, or all sigmoids with those of
    the chosen ones and their sum."""
    if moe.routing.score == "sigmoid":
        return moe.num_experts + moe.num_experts_per_token + 1
    return moe.num_experts_per_token if moe.weights_sum_to_one else moe.num_experts


def forward_bytes(model: RankModel, share: ExpertShare, num_tokens: int) -> int:
    """The largest sum of tensors alive at one time in a forward whose backward never comes, beside
    the layer's input.

    Alive throughout are the permuted rows, those received from other ranks, and those gathered or
    sorted by expert. Beside them either the last expert's MLP runs, or the outputs of all are
    joined, sorted back and sent; before them runs the shared expert, whose output waits.
    """
    width, row = model.dtype.num_bytes, row_bytes(model)
    rows = num_rows(model, share, num_tokens)
    num_widths = 3 if model.fused.swiglu else 5
    last = rows // share.num_experts
    last_expert = (rows - last) * row + last * num_widths * share.ffn_size * width
    waiting = _waiting_rows(share, rows) * row + max(last_expert, _joined_bytes(model, share, rows))
    shared = shared_bytes(model, share, num_tokens)
    return max(shared, _waiting_output(model, share, num_tokens) + waiting)


def training_forward_bytes(model: RankModel, share: ExpertShare, num_tokens: int) -> int:
    """What passes in the forward of a layer's experts beside what they keep, of which are the rows
    as trained experts take them: those before, and the outputs of all, joined, or where experts are
    frozen the last expert's product, scaled by the probability."""
    row = row_bytes(model)
    rows = num_rows(model, share, num_tokens)
    waiting = _waiting_output(model, share, num_tokens) + _waiting_rows(share, rows) * row
    joined = _joined_bytes(model, share, rows)
    last = rows // share.num_experts
    of_product = last * share.ffn_size * model.dtype.num_bytes
    scaled = num_widths_of_scaling(model) * of_product
    taken = rows * row if model.keeps_input_of("gate_proj", "up_proj") else 0
    outputs = (rows - last) * row
    if not model.keeps_input_of("down_proj"):
        outputs = rows * row + of_product
    return waiting - taken + max(joined, outputs + scaled)


def backward_bytes(model: RankModel, share: ExpertShare, num_tokens: int) -> int:
    """What the backward of a layer's experts adds to what the forward has kept, at most.

    That is before the first expert, the last of the forward, frees what it kept. The gradient of
    the rows' outputs is there twice, as received and as sorted by expert, or once beside what the
    expert makes: at its down projection gradients of input and weight; in its gated unit, where it
    stays for the other experts, two more of its width; at its up projection gradients of input,
    gate and up, and weight, where all that the gated unit kept is released. Before all that it is
    cast, where outputs were for their sum.
    """
    width, hidden = model.dtype.num_bytes, model.shape.hidden_size
    rows = num_rows(model, share, num_tokens)
    last = rows // share.num_experts
    of_product = width * last * share.ffn_size
    of_weight = width * hidden * share.ffn_size if model.trains_base else 0
    down_projection = lora.num_gradients(model, "down_proj") * of_product + of_weight
    gated_unit = (2 if model.keeps_input_of("down_proj") else 3) * of_product
    gated_unit += 2 * num_widths_of_scaling(model) * of_product
    num_released = num_widths_kept(model) - 2
    num_inputs = lora.num_gradients(model, "gate_proj", "up_proj")
    up_projection = num_inputs * width * last * hidden + 2 * of_weight - num_released * of_product
    received = width * hidden * rows
    cast = 0
    if share.expert_tensor > 1 and _is_sum_cast(model):
        cast = FP32_BYTES * hidden * rows + received
    rest = received if share.num_experts > 1 else 0
    at_projections = received + down_projection, rest + max(gated_unit, up_projection)
    return max(2 * received, cast, *at_projections)


def routing_bytes(model: RankModel, share: ExpertShare, num_tokens: int) -> int:
    """What a layer's dispatcher holds of its latest forward until the next one: probabilities, map
    and the order of rows."""
    moe = share.moe
    token = (FP32_BYTES + 1) * moe.num_experts + INT64_BYTES * moe.num_experts_per_token
    return num_tokens // model.sequence_shards * token


def row_bytes(model: RankModel) -> int:
    """A row as it travels: its hidden state and its probability."""
    return model.dtype.num_bytes * model.shape.hidden_size + FP32_BYTES


def num_rows(model: RankModel, share: ExpertShare, num_tokens: int) -> int:
    """Rows that the rank's experts work on."""
    tokens = num_tokens // model.sequence_shards
    return tokens * share.moe.num_experts_per_token * share.expert_tensor


def _waiting_rows(share: ExpertShare, rows: int) -> int:
    """Rows as sent, as received from other ranks, and as gathered or sorted by expert."""
    sent = rows // share.expert_tensor
    received = sent if share.expert > 1 else 0
    is_ordered = share.num_experts > 1 or share.expert_tensor > 1
    return sent + received + (rows if is_ordered else 0)


def _joined_bytes(model: RankModel, share: ExpertShare, rows: int) -> int:
    """Outputs of all experts: joined, sorted back, and for the sum over the expert tensor axis,
    which is in float32, a copy in it and what is left."""
    joined = (2 * rows if share.num_experts > 1 else rows) * row_bytes(model)
    if share.expert_tensor == 1:
        return joined
    num_summed = rows // share.expert_tensor + (rows if _is_sum_cast(model) else 0)
    return joined + FP32_BYTES * num_summed * model.shape.hidden_size


def _is_sum_cast(model: RankModel) -> bool:
    """Whether outputs are cast for their sum over the expert tensor axis."""
    return model.dtype.num_bytes < FP32_BYTES


def _waiting_output(model: RankModel, share: ExpertShare, num_tokens: int) -> int:
    """The shared expert's, while the others work."""
    if not share.moe.shared_ffn_hidden_size:
        return 0
    row = model.dtype.num_bytes * (model.shape.hidden_size + 1)
    return num_tokens // model.sequence_shards * row


def num_widths_kept(model: RankModel) -> int:
    """Tensors of an expert's width that it keeps of each row: the last, scaled by the probability,
    for the gradient of the down projection's weight."""
    return (3 if model.fused.swiglu else 5) + model.keeps_input_of("down_proj")


def _balance_bytes(model: RankModel, share: ExpertShare, tokens: int) -> int:
    """Kept for a loss that balances the load: the softmax over all experts, which tokens are
    padding, how many every expert has, and the loss, its factor and its sum over micro-batches."""
    if not model.balances_load:
        return 0
    num_experts = share.moe.num_experts
    of_tokens = tokens * (FP32_BYTES * num_experts + 1)
    return of_tokens + INT64_BYTES * num_experts + 3 * FP32_BYTES


def num_widths_of_scaling(model: RankModel) -> int:
    """Of an expert's width in float32, counted in the model's dtype, where its product is scaled in
    float32 and cast back: one forward. Backward three take the place of two of the model's dtype:
    the gradient, and its products with the scale and with what was scaled."""
    is_cast = model.dtype.num_bytes < FP32_BYTES and not model.fused.swiglu
    return FP32_BYTES // model.dtype.num_bytes if is_cast else 0


def shared_bytes(model: RankModel, share: ExpertShare, num_tokens: int) -> int:
    """The shared expert, a gated MLP over all tokens, and what its gate scales."""
    moe, width, hidden = share.moe, model.dtype.num_bytes, model.shape.hidden_size
    num_widths = (2 if model.fused.swiglu else 4) + model.trains_base
    mlp = num_tokens * num_widths * (moe.shared_ffn_hidden_size // model.tensor) * width
    gate = num_tokens // model.sequence_shards * (hidden + 1) * width
    return mlp + (gate if moe.shared_expert_gate else 0)
