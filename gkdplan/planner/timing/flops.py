"""FLOPs of a layer and of the output head: two for each element of a matrix and token."""

from collections.abc import Callable
from functools import cache

from gkdplan.shape import ModelShape


@cache
def active_elements(shape: ModelShape) -> float:
    """Matrix elements of a layer that one token is multiplied with: projections, and the MLP, or
    the router, the chosen experts and the shared one; in the mean, where layers differ."""
    return shape.attention_elements + mean_of_layers(shape, active_mlp_elements)


def mean_of_layers(shape: ModelShape, of_layer: Callable[[ModelShape], float]) -> float:
    """Of a layer, where some have experts and others not: what `of_layer` says of a shape whose
    layers are alike."""
    num_dense = shape.num_dense_layers
    if num_dense in (0, shape.num_layers):
        return of_layer(shape)
    of_dense = num_dense * of_layer(shape.without_experts)
    return (of_dense + (shape.num_layers - num_dense) * of_layer(shape)) / shape.num_layers


def active_mlp_elements(shape: ModelShape) -> int:
    """Of the MLP, or of router, chosen experts and shared one where the shape has experts."""
    hidden, moe = shape.hidden_size, shape.moe
    if moe is None:
        return 3 * hidden * shape.ffn_hidden_size
    routed = moe.num_experts_per_token * 3 * hidden * moe.expert_ffn_hidden_size
    shared = 3 * hidden * moe.shared_ffn_hidden_size
    gate = hidden if moe.shared_expert_gate else 0
    return moe.num_experts * hidden + routed + shared + gate


def routed_elements(shape: ModelShape) -> int:
    """Of all experts of a layer, where the shape has some."""
    moe = shape.moe
    if moe is None:
        return 0
    return moe.num_experts * 3 * shape.hidden_size * moe.expert_ffn_hidden_size


def layer_flops(shape: ModelShape, num_tokens: float, tokens_of_row: int) -> float:
    """A layer's forward over rows of `tokens_of_row` tokens, the causal half of attention only."""
    return num_tokens * 2 * active_elements(shape) + attention_flops(
        shape, num_tokens, tokens_of_row
    )


def attention_flops(shape: ModelShape, num_tokens: float, tokens_of_row: int) -> float:
    """Scores and weighted values: 2 (q + v) s a token, with v = q but where values come from a
    latent, halved by the causal mask; of a layer in the mean, where some see a window w of s: then
    2 (q + v) (w - w^2 / 2 s)."""
    attention, widths = shape.attention, shape.query_size + shape.context_size
    num_cut = len(attention.sliding_layers)
    if attention.window is None or tokens_of_row <= attention.window:
        return num_tokens * widths * tokens_of_row
    in_window = attention.window * (2 - attention.window / tokens_of_row)
    num_whole = shape.num_layers - num_cut
    seen = (num_whole * tokens_of_row + num_cut * in_window) / shape.num_layers
    return num_tokens * widths * seen


def head_flops(shape: ModelShape, num_tokens: float, vocab_rows: int) -> float:
    """Logits of `num_tokens` tokens over `vocab_rows` rows of the head."""
    return num_tokens * 2 * shape.hidden_size * vocab_rows
