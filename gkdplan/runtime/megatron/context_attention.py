"""Causal attention of a sequence that is spread over the context axis, for the CPU.

Rank r of c holds chunks r and 2c - 1 - r of the 2c chunks of every row, so that all ranks work
alike. Keys and values are gathered, not passed around; what is kept for the backward is the rank's
own, as in Transformer Engine's attention with gathered keys and values (the context parallelism of
Llama 3: Grattafiori et al., "The Llama 3 Herd of Models", 2024, section 3.3.2).

Legend: S positions of this rank, T of all ranks, B rows, N query heads, G kv heads, D head size.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import (
    _gather_along_first_dim,
    _reduce_scatter_along_first_dim,
)
from torch import Tensor
from torch.distributed import ProcessGroup

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class ContextAttention(torch.autograd.Function):
    """query [S, B, N, D], key and value [S, B, G, D] to [S, B, N, D], all of this rank's chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        group: ProcessGroup,
    ) -> Tensor:
        keys_T, values_T = (gather_in_order(x, group) for x in (key, value))
        output, sums = torch.empty_like(query), []
        for queries, first in positions_of_chunks(len(query), group):
            output[queries], log_sum = _context(query[queries], keys_T, values_T, first, scale)
            sums.append(log_sum)
        ctx.group, ctx.scale = group, scale
        ctx.save_for_backward(query, key, value, output, *sums)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_query, *of_all = _gradients(grad_output, ctx.saved_tensors, ctx.scale, ctx.group)
        grad_key, grad_value = (scatter_sum(grad_T, ctx.group) for grad_T in of_all)
        return grad_query, grad_key, grad_value, None, None


def positions_of_chunks(
    num_positions: int, group: ProcessGroup | None
) -> Iterator[tuple[slice, int]]:
    """Where each of this rank's runs of positions lies in its tensors, and its first position; all
    of one row in one run where there is no group."""
    if group is None:
        yield slice(0, num_positions), 0
        return
    length, rank, size = num_positions // 2, group.rank(), group.size()
    for half, chunk in enumerate((rank, 2 * size - 1 - rank)):
        yield slice(half * length, (half + 1) * length), chunk * length


def gather_in_order(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """Every rank's chunks [T, ...], in the order of positions."""
    if group is None:
        return x
    chunks = _gather_along_first_dim(x.contiguous(), group).chunk(2 * group.size())
    return torch.cat([*chunks[::2], *reversed(chunks[1::2])])


def scatter_sum(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """This rank's chunks [S, ...] of the sum over ranks of gradients of all positions [T, ...]."""
    if group is None:
        return x
    chunks, size = x.chunk(2 * group.size()), group.size()
    by_rank = [chunks[c] for rank in range(size) for c in (rank, 2 * size - 1 - rank)]
    share: Tensor = _reduce_scatter_along_first_dim(torch.cat(by_rank), group=group)
    return share


def _gradients(
    grad_output: Tensor, saved: Sequence[Tensor], scale: float | None, group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Of this rank's queries [S, B, N, D], and its part of those of all keys and values
    [T, B, G, D]."""
    query, key, value, output, *sums = saved
    keys_T, values_T = (gather_in_order(x, group) for x in (key, value))
    grad_query = torch.zeros_like(query)
    grad_keys_T, grad_values_T = torch.zeros_like(keys_T), torch.zeros_like(values_T)
    chunks = positions_of_chunks(len(query), group)
    for (queries, first), log_sum in zip(chunks, sums, strict=True):
        past, own = _keys(queries, first)
        for keys, is_causal in ((own, True), (past, False))[: 1 + (first > 0)]:
            _add_gradients(
                (grad_query[queries], grad_keys_T[keys], grad_values_T[keys]),
                (query[queries], keys_T[keys], values_T[keys]),
                (grad_output[queries], output[queries], log_sum),
                scale,
                is_causal=is_causal,
            )
    return grad_query, grad_keys_T, grad_values_T


def _add_gradients(
    totals: tuple[Tensor, Tensor, Tensor],
    of_block: tuple[Tensor, Tensor, Tensor],
    of_queries: tuple[Tensor, Tensor, Tensor],
    scale: float | None,
    *,
    is_causal: bool,
) -> None:
    """To those of a block's query, keys and values; of its queries are known the gradient of their
    output, the output, and the logarithm of their sums."""
    grad_output, output, log_sum = of_queries
    grads = _attend_backward(
        _heads_first(grad_output),
        *map(_heads_first, of_block),
        _heads_first(output),
        log_sum,
        0.0,
        is_causal,
        scale=scale,
    )
    for total, grad in zip(totals, grads, strict=True):
        total += grad.permute(2, 0, 1, 3)


def _keys(queries: slice, first: int) -> tuple[slice, slice]:
    """Of all positions those before a chunk, and its own."""
    return slice(0, first), slice(first, first + queries.stop - queries.start)


def _context(
    query: Tensor, keys_T: Tensor, values_T: Tensor, first: int, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attention [S, B, N, D] of a chunk whose first position is `first`, and the logarithm of its
    softmax's sum, [B, N, S]."""
    past, own = _keys(slice(0, len(query)), first)
    context, log_sum = _block(query, keys_T[own], values_T[own], scale, is_causal=True)
    if first > 0:
        before = _block(query, keys_T[past], values_T[past], scale, is_causal=False)
        context, log_sum = _joined_((context, log_sum), before)
    return context.permute(2, 0, 1, 3), log_sum


def _block(
    query: Tensor, keys: Tensor, values: Tensor, scale: float | None, *, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention [B, N, S, D] of one block and the logarithm of its softmax's sum, [B, N, S]."""
    return _attend(*map(_heads_first, (query, keys, values)), 0.0, is_causal, scale=scale)


def _joined_(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Attention over the keys of both blocks, in the place of the first (Dao et al.,
    "FlashAttention", 2022, section 3.1)."""
    log_sum = torch.logaddexp(one[1], other[1])
    for block, block_sum in (one, other):
        block.mul_((block_sum - log_sum).exp_().unsqueeze(-1).to(block.dtype))
    return one[0].add_(other[0]), log_sum


def _heads_first(x: Tensor) -> Tensor:
    """[S, B, N, D] to [B, N, S, D]."""
    return x.permute(1, 2, 0, 3)
