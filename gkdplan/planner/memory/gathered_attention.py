"""Bytes that pass through attention whose keys and values are gathered over the context axis
(runtime/megatron/context_attention.py), beside what a rank has of its own tokens.

q: elements of the queries of a rank's tokens, and as many of its keys and of its values; c: context
degree, and so c q elements of all keys. Queries go in two chunks, of which the later sees most: on
the first rank the last of 2 c, and 2 c - 1 before it.
"""

from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.model import RankModel

FP32_BYTES = 4


def forward_bytes(model: RankModel, batch: Batch) -> int:
    """Keys, and values as they come and in order; or both with the context, the two blocks of a
    chunk that are joined, and the logarithms of sums."""
    of_all = batch.context * _query_bytes(model, batch)
    gathering = 3 * of_all
    attending = 2 * of_all + 2 * _query_bytes(model, batch) + 3 * _sum_bytes(model, batch)
    return max(gathering, attending)


def backward_bytes(model: RankModel, batch: Batch) -> int:
    """At the keys and values before the last chunk: those of all, the gradients of these and of the
    queries, and what is added to them."""
    of_own = _query_bytes(model, batch)
    of_block = of_own // 2 + (2 * batch.context - 1) * of_own
    return 4 * batch.context * of_own + of_own + of_block


def _query_bytes(model: RankModel, batch: Batch) -> int:
    return batch.num_tokens * model.query_size * model.dtype.num_bytes


def _sum_bytes(model: RankModel, batch: Batch) -> int:
    heads = model.shape.num_attention_heads // model.tensor
    return batch.num_tokens * heads * FP32_BYTES
