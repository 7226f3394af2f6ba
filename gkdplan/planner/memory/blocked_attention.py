"""Bytes that pass through attention whose scores no fused kernel computes: block by block, in
float32 (runtime/megatron/blocked_attention.py).

Legend: B rows, S tokens of this rank, T of all ranks of the context axis, N query heads of the
rank, Q queries of a block, K keys that they see.
"""

from gkdplan.planner.memory.model import RankModel

FP32_BYTES = 4
BLOCK_SCORES = 2**24
"""Scores of one block at most, of one query at least: as in the runtime."""


def is_blocked(model: RankModel, tokens: int) -> bool:
    """Whether a layer's scores are bounded, or cut by a window that `tokens` positions pass, and
    the kernels are torch's."""
    attention = model.shape.attention
    if model.fused.windows:
        return False
    is_cut = attention.window is not None and bool(attention.sliding_layers)
    return attention.softcap is not None or (is_cut and tokens > (attention.window or 0))


def forward_bytes(model: RankModel, rows: int, tokens: int) -> int:
    """One block of scores, its queries and its context, and the keys of bf16 in float32."""
    if not is_blocked(model, tokens):
        return 0
    block = _scores(model, rows, tokens) + 2 * _of_queries(model, rows, tokens)
    if model.dtype.num_bytes < FP32_BYTES:
        block += rows * _keys(model, rows, tokens) * model.kv_size
    return FP32_BYTES * block


def backward_bytes(model: RankModel, rows: int, tokens: int) -> int:
    """Scores, weights and their gradient, of a block; what belongs to its queries and its keys; and
    the gradients of all keys and values, float32, with that of the queries."""
    if not is_blocked(model, tokens):
        return 0
    block = 3 * _scores(model, rows, tokens) + 4 * _of_queries(model, rows, tokens)
    block += rows * _keys(model, rows, tokens) * model.kv_size
    all_keys = rows * tokens * 2 * model.kv_size
    of_queries = rows * tokens * model.query_size * model.dtype.num_bytes
    return FP32_BYTES * (block + all_keys) + of_queries


def _scores(model: RankModel, rows: int, tokens: int) -> int:
    num_queries = _queries(model, rows, tokens)
    return rows * _num_heads(model) * num_queries * _keys(model, rows, tokens)


def _keys(model: RankModel, rows: int, tokens: int) -> int:
    """K of the layer that sees most: all T, unless every layer that goes block by block is cut."""
    window = _window_of_all(model)
    return tokens if window is None else min(tokens, window + _queries(model, rows, tokens) - 1)


def _window_of_all(model: RankModel) -> int | None:
    """The window where every layer that goes block by block has it."""
    attention = model.shape.attention
    are_all_cut = len(attention.sliding_layers) == model.shape.num_layers
    is_one_whole = attention.softcap is not None and not are_all_cut
    return None if is_one_whole else attention.window


def _of_queries(model: RankModel, rows: int, tokens: int) -> int:
    return rows * _queries(model, rows, tokens) * model.query_size


def _queries(model: RankModel, rows: int, tokens: int) -> int:
    """Q: no more than a window has positions."""
    longest = min(int(tokens), _window_of_all(model) or int(tokens))
    return max(1, min(longest, BLOCK_SCORES // int(rows * _num_heads(model) * tokens)))


def _num_heads(model: RankModel) -> int:
    return model.shape.num_attention_heads // model.tensor
