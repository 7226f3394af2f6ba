"""Bytes of sampling: the cache of keys and values, the prompts' forward, and the sampler."""

from gkdplan.planner.memory import blocked_attention
from gkdplan.planner.memory.activations import passing_mlp_bytes
from gkdplan.planner.memory.model import RankModel

PREFILL_TOKENS = 8192
"""Prompt tokens of one forward at most, one prompt at least: as in runtime/megatron/generate.py."""
SAMPLER_BYTES = 20
"""A row and an id of the vocabulary while a token is drawn: float32 scores and probabilities, a
float64 or int64 running sum, and masks."""


def cache_bytes(model: RankModel, rows: int, tokens: int) -> int:
    """Keys and values of a stage's layers, [rows, kv heads of the rank, tokens, head dim] each: of
    all tokens also in layers that see a window of them."""
    elements = 2 * model.stage.num_layers * rows * model.kv_size * tokens
    return elements * model.dtype.num_bytes


def prompts_at_once(rows: int, prompt_tokens: int) -> int:
    """Of one forward, each as long as the plan allows."""
    return min(rows, max(1, PREFILL_TOKENS // prompt_tokens))


def sampling_bytes(model: RankModel, rows: int, prompt_tokens: int) -> int:
    """The larger of the prompts' forward and, on the last stage, the drawing of one token a row.

    Neither uses sequence parallelism. Logits are gathered over the tensor axis.
    """
    num_tokens = prompt_tokens * prompts_at_once(rows, prompt_tokens)
    prefill = _prefill_bytes(model, num_tokens, prompt_tokens)
    if not model.stage.is_last:
        return prefill
    logits = rows * model.padded_vocab_size * model.dtype.num_bytes
    draw = rows * model.padded_vocab_size * SAMPLER_BYTES
    return logits + max(prefill, draw)


def _prefill_bytes(model: RankModel, num_tokens: int, prompt_tokens: int) -> int:
    """At the end of a layer's gated MLP: the residual and its norm, what attention has computed,
    the cosines and sines of every token, and every intermediate of the MLP; or in attention that
    goes block by block, prompt after prompt."""
    shape = model.shape
    copied = model.query_size if shape.qk_norm or model.num_kv_heads > 1 else 0
    normalised = model.kv_size if shape.qk_norm else 0
    num_tables = 1 if shape.attention.sliding_rope_theta is None else 2
    attention = model.qkv_size + copied + normalised + model.query_size
    elements = 2 * shape.hidden_size + attention + 2 * num_tables * model.rotated_size
    scores = blocked_attention.forward_bytes(model, 1, prompt_tokens)
    passing = max(scores, passing_mlp_bytes(model, num_tokens))
    return num_tokens * elements * model.dtype.num_bytes + passing
