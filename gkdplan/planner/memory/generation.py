"""Bytes of sampling: the cache of keys and values, the prompts' forward, and the sampler."""

from dataclasses import replace

from gkdplan.planner.memory import blocked_attention, latents, norms
from gkdplan.planner.memory.activations import passing_mlp_bytes
from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.model import RankModel

PREFILL_TOKENS = 8192
"""Prompt tokens of one forward at most, one prompt at least: as in runtime/megatron/generate.py."""
SAMPLER_BYTES = 20
"""A row and an id of the vocabulary while a token is drawn: float32 scores and probabilities, a
float64 or int64 running sum, and masks."""


def cache_bytes(model: RankModel, rows: int, tokens: int) -> int:
    """Keys and values of a stage's layers, [rows, kv heads of the rank, tokens, head dim] each: of
    all tokens also in layers that see a window of them. Those from a latent are kept, not it."""
    values = model.kv_size if model.shape.latent is None else latents.context_size(model)
    elements = model.stage.num_layers * rows * (model.kv_size + values) * tokens
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
    """The largest sum in a layer, beside its hidden states, to which it adds in place, and the
    cosines and sines of every token: in attention, in the norm before the MLP, or with the norm's
    output in the MLP."""
    shape = model.shape
    num_tables = 1 if shape.attention.sliding_rope_theta is None else 2
    elements = shape.hidden_size + 2 * num_tables * model.rotated_size
    states = num_tokens * shape.hidden_size * model.dtype.num_bytes
    passing = max(
        _attention_bytes(model, num_tokens, prompt_tokens),
        norms.passing_bytes(replace(model, sequence=False), Batch(1, num_tokens)),
        states + passing_mlp_bytes(model, num_tokens),
    )
    return num_tokens * elements * model.dtype.num_bytes + passing


def _attention_bytes(model: RankModel, num_tokens: int, prompt_tokens: int) -> int:
    """At the norms of queries and keys, beside the norm of the input; where queries or keys turn,
    two or three of their size beside the other; or at the context, prompt after prompt and joined.

    Queries of several kv heads are copied out of the fused projection, which the values stay part
    of, and so is what a norm makes of queries and keys.
    """
    shape, width = model.shape, model.dtype.num_bytes
    if shape.latent is not None:
        in_attention = latents.forward_bytes(model, Batch(1, num_tokens))
        return num_tokens * width * shape.hidden_size + in_attention
    queries, keys = model.query_size, model.kv_size
    copied = queries if shape.qk_norm or model.num_kv_heads > 1 else 0
    normalised = keys if shape.qk_norm else 0
    norm = norms.passing_width(model) * queries if shape.qk_norm else 0
    normalising = width * (shape.hidden_size + copied) + norm
    turning = width * (copied + normalised + max(2 * queries, queries + 2 * keys))
    attending = width * (queries + keys + 2 * queries)
    most = width * model.qkv_size + max(normalising, turning, attending)
    return num_tokens * most + blocked_attention.forward_bytes(model, 1, prompt_tokens)
