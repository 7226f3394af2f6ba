"""Causal attention of a sequence that is spread over the context axis, for the CPU.

Rank r of c holds chunks r and 2c - 1 - r of the 2c chunks of every row, so that all ranks work
alike. Keys and values are gathered, not passed around; what is kept for the backward is the rank's
own, as in Transformer Engine's attention with gathered keys and values (the context parallelism of
Llama 3: Grattafiori et al., "The Llama 3 Herd of Models", 2024, section 3.3.2).

Legend: S positions of this rank, T of all ranks, B rows, N query heads, G kv heads, D head size.
"""

from collections.abc import Iterator
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
            past, own = _keys(queries, first)
            block = _block(query[queries], keys_T[own], values_T[own], scale, is_causal=True)
            if first > 0:
                before = keys_T[past], values_T[past]
                block = _joined(block, _block(query[queries], *before, scale, is_causal=False))
            context, log_sum = block
            output[queries] = context.permute(2, 0, 1, 3)
            sums.append(log_sum)
        ctx.group, ctx.scale = group, scale
        ctx.save_for_backward(query, key, value, output, *sums)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, *sums = ctx.saved_tensors
        keys_T, values_T = (gather_in_order(x, ctx.group) for x in (key, value))
        grad_query = torch.zeros_like(query)
        grad_keys_T, grad_values_T = torch.zeros_like(keys_T), torch.zeros_like(values_T)
        chunks = positions_of_chunks(len(query), ctx.group)
        for (queries, first), log_sum in zip(chunks, sums, strict=True):
            past, own = _keys(queries, first)
            for keys, is_causal in ((own, True), (past, False))[: 1 + (first > 0)]:
                grads = _attend_backward(
                    _heads_first(grad_output[queries]),
                    _heads_first(query[queries]),
                    _heads_first(keys_T[keys]),
                    _heads_first(values_T[keys]),
                    _heads_first(output[queries]),
                    log_sum,
                    0.0,
                    is_causal,
                    scale=ctx.scale,
                )
                of_query, of_keys, of_values = (grad.permute(2, 0, 1, 3) for grad in grads)
                grad_query[queries] += of_query
                grad_keys_T[keys] += of_keys
                grad_values_T[keys] += of_values
        grad_key, grad_value = (scatter_sum(g, ctx.group) for g in (grad_keys_T, grad_values_T))
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


def _keys(queries: slice, first: int) -> tuple[slice, slice]:
    """Of all positions those before a chunk, and its own."""
    return slice(0, first), slice(first, first + queries.stop - queries.start)


def _block(
    query: Tensor, keys: Tensor, values: Tensor, scale: float | None, *, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention [B, N, S, D] of one block and the logarithm of its softmax's sum, [B, N, S]."""
    return _attend(*map(_heads_first, (query, keys, values)), 0.0, is_causal, scale=scale)


def _joined(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Attention over the keys of both blocks (Dao et al., "FlashAttention", 2022, section 3.1)."""
    log_sum = torch.logaddexp(one[1], other[1])
    context = sum(
        block * (block_sum - log_sum).exp().unsqueeze(-1).to(block.dtype)
        for block, block_sum in (one, other)
    )
    return context, log_sum


def _heads_first(x: Tensor) -> Tensor:
    """[S, B, N, D] to [B, N, S, D]."""
    return x.permute(1, 2, 0, 3)
