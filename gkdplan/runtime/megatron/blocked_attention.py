"""Causal attention by blocks of queries, for scores that no fused kernel of torch computes.

Bounded scores and windows are computed block by block and made again in the backward, so that what
is kept is what a fused kernel keeps: query, key, value, output, and the logarithm of each softmax's
sum (Dao et al., "FlashAttention", arXiv 2205.14135, section 3.1). The derivative of a bounded score
c tanh(z / c) is 1 - tanh^2(z / c). What is computed between is float32, of float64 float64.

Legend: S positions of this rank, T of all ranks, B rows, N query heads, G kv heads, R query heads a
kv head, D head size, Q queries of a block, P = R Q, K keys that one of them sees.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from gkdplan.runtime.megatron.context_attention import (
    gather_in_order,
    positions_of_chunks,
    scatter_sum,
)
from gkdplan.runtime.megatron.scores import Scores

BLOCK_SCORES = 2**24
"""Scores of one block at most, of one query at least."""


class BlockedAttention(torch.autograd.Function):
    """query [S, B, N, D], key and value [S, B, G, D] to [S, B, N, D], of this rank's positions."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scores: Scores,
        group: ProcessGroup | None,
    ) -> Tensor:
        keys_T, values_T = (gather_in_order(x, group) for x in (key, value))
        output = query.new_empty(query.shape)
        log_sums = query.new_empty(query.shape[:3], dtype=_working_dtype(query))
        for queries, keys, hidden_QK in _blocks(query, len(keys_T), scores, group):
            output[queries], log_sums[queries] = _context(
                query[queries], keys_T[keys], values_T[keys], scores, hidden_QK
            )
        ctx.scores, ctx.group = scores, group
        ctx.save_for_backward(query, key, value, output, log_sums)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sums = ctx.saved_tensors
        keys_T, values_T = (gather_in_order(x, ctx.group) for x in (key, value))
        grad_query = torch.empty_like(query)
        grad_keys_T, grad_values_T = (
            torch.zeros_like(x, dtype=_working_dtype(x)) for x in (keys_T, values_T)
        )
        for queries, keys, hidden_QK in _blocks(query, len(keys_T), ctx.scores, ctx.group):
            of_queries = (
                _by_group(x[queries], key.size(2))
                for x in (query, output, grad_output, log_sums[..., None])
            )
            grad_query[queries] = _add_gradients(
                *of_queries,
                *(x[keys] for x in (keys_T, values_T, grad_keys_T, grad_values_T)),
                ctx.scores,
                hidden_QK,
            )
        grad_key, grad_value = (
            scatter_sum(grad.to(query.dtype), ctx.group) for grad in (grad_keys_T, grad_values_T)
        )
        return grad_query, grad_key, grad_value, None, None


def _blocks(
    query: Tensor, num_keys: int, scores: Scores, group: ProcessGroup | None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The queries of each block, the keys of all positions that one of them sees, and which of
    these are hidden from which query [Q, K]."""
    length = max(1, BLOCK_SCORES // (query[0, :, :, 0].numel() * num_keys))
    if scores.window is not None:
        length = min(length, scores.window)
    for chunk, first in positions_of_chunks(len(query), group):
        for start in range(chunk.start, chunk.stop, length):
            queries = slice(start, min(start + length, chunk.stop))
            begin, end = (first + place - chunk.start for place in (start, queries.stop))
            keys = slice(scores.first_key(begin), end)
            yield queries, keys, _hidden(range(begin, end), keys, scores, query.device)


def _hidden(queries: range, keys: slice, scores: Scores, device: torch.device) -> Tensor:
    query_Q1 = torch.arange(queries.start, queries.stop, device=device)[:, None]
    key_K = torch.arange(keys.start, keys.stop, device=device)
    hidden_QK = key_K > query_Q1
    if scores.window is not None:
        hidden_QK |= key_K <= query_Q1 - scores.window
    return hidden_QK


def _context(
    query: Tensor, keys: Tensor, values: Tensor, scores: Scores, hidden_QK: Tensor
) -> tuple[Tensor, Tensor]:
    """Of a block the context [Q, B, N, D] and the logarithms of its sums [Q, B, N]."""
    logits = _scores(_by_group(query, keys.size(2)), keys, scores, hidden_QK)
    top = logits.amax(dim=-1, keepdim=True)
    weights = logits.sub_(top).exp_()
    sums = weights.sum(dim=-1, keepdim=True)
    context = torch.matmul(weights, _by_kv_head(values)).div_(sums)
    log_sums = _by_position(sums.log_().add_(top), hidden_QK)[..., 0]
    return _by_position(context, hidden_QK), log_sums


def _add_gradients(
    query_BGPD: Tensor,
    context_BGPD: Tensor,
    grad_BGPD: Tensor,
    log_sums_BGP1: Tensor,
    keys: Tensor,
    values: Tensor,
    grad_keys: Tensor,
    grad_values: Tensor,
    scores: Scores,
    hidden_QK: Tensor,
) -> Tensor:
    """Of a block: the gradients of its keys and values are added to theirs, that of its queries
    [Q, B, N, D] is returned."""
    logits = _scores(query_BGPD, keys, scores, hidden_QK)
    weights = torch.sub(logits, log_sums_BGP1).exp_()
    _add_by_key(grad_values, weights, grad_BGPD)
    mean_BGP1 = (context_BGPD * grad_BGPD).sum(dim=-1, keepdim=True)
    of_logits = torch.matmul(grad_BGPD, _by_kv_head(values).transpose(-1, -2))
    of_logits.sub_(mean_BGP1).mul_(weights)
    if scores.softcap is not None:
        of_logits.mul_(_slope_(logits, scores.softcap, hidden_QK))
    of_logits.mul_(scores.scale_of(keys.size(-1)))
    _add_by_key(grad_keys, of_logits, query_BGPD)
    return _by_position(torch.matmul(of_logits, _by_kv_head(keys)), hidden_QK)


def _scores(query_BGPD: Tensor, keys: Tensor, scores: Scores, hidden_QK: Tensor) -> Tensor:
    """[B, G, P, K], -inf where hidden."""
    logits = torch.matmul(query_BGPD, _by_kv_head(keys).transpose(-1, -2))
    logits.mul_(scores.scale_of(keys.size(-1)))
    if scores.softcap is not None:
        logits.div_(scores.softcap).tanh_().mul_(scores.softcap)
    return _fill_(logits, hidden_QK, -torch.inf)


def _slope_(logits: Tensor, softcap: float, hidden_QK: Tensor) -> Tensor:
    """1 - (score / c)^2 in the place of bounded scores, 1 where hidden."""
    return _fill_(logits, hidden_QK, 0.0).div_(softcap).square_().neg_().add_(1.0)


def _fill_(logits: Tensor, hidden_QK: Tensor, value: float) -> Tensor:
    logits.unflatten(2, (-1, len(hidden_QK))).masked_fill_(hidden_QK, value)
    return logits


def _add_by_key(total_KBGD: Tensor, weights: Tensor, of_queries: Tensor) -> None:
    """total += weights^T of_queries."""
    product_BGKD = torch.matmul(weights.transpose(-1, -2), of_queries)
    total_KBGD += product_BGKD.permute(2, 0, 1, 3)


def _by_group(x_QBND: Tensor, num_kv_heads: int) -> Tensor:
    """[B, G, R Q, D] in the working dtype."""
    x_BGRQD = x_QBND.unflatten(2, (num_kv_heads, -1)).permute(1, 2, 3, 0, 4)
    return x_BGRQD.to(_working_dtype(x_QBND)).flatten(2, 3)


def _by_position(x_BGPD: Tensor, hidden_QK: Tensor) -> Tensor:
    """[Q, B, N, D], the inverse of `_by_group`."""
    return x_BGPD.unflatten(2, (-1, len(hidden_QK))).permute(3, 0, 1, 2, 4).flatten(2, 3)


def _by_kv_head(x_KBGD: Tensor) -> Tensor:
    """[B, G, K, D] in the working dtype."""
    return x_KBGD.permute(1, 2, 0, 3).to(_working_dtype(x_KBGD))


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
