"""Causal attention through torch's fused kernels, which keep no scores.

Legend: S positions, B rows, N query heads, G kv heads, R query heads a kv head, D head size.
"""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
"""On CUDA the first is for bf16 only, the second for float32 too."""


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None
) -> Tensor:
    """Query [S, B, N, D], key and value [S, B, G, D], in Megatron's layout, to [S, B, N * D].

    Query head n reads kv head n // R, and position s sees those up to s. Products are multiplied by
    `scale`, None: 1 / sqrt(D). Raises RuntimeError where
    torch has no fused kernel for tensors on CUDA: its other way would store the scores of all
    positions, which no plan has counted.
    """
    if not query.is_cuda:
        return _attend(query, key, value, scale)
    with sdpa_kernel(FUSED):
        is_grouped = query.size(2) > key.size(2)
        attend = _attend_by_kv_head if is_grouped and query.dtype is torch.float32 else _attend
        return attend(query, key, value, scale)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    context_BNSD = scaled_dot_product_attention(
        *(x.permute(1, 2, 0, 3) for x in (query, key, value)),
        is_causal=True,
        scale=scale,
        enable_gqa=True,
    )
    return context_BNSD.permute(2, 0, 1, 3).flatten(2)


def _attend_by_kv_head(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """For CUDA's kernel for float32, which knows no shared kv heads (aten/src/ATen/native/
    transformers/cuda/sdp_utils.cpp): each kv head of a row is a row of its own, with the one head
    expanded over its query heads. Only the context is copied."""
    num_rows, num_kv_heads = key.shape[1:3]
    query_BRSD = query.unflatten(2, (num_kv_heads, -1)).flatten(1, 2).permute(1, 2, 0, 3)
    key, value = (
        x.flatten(1, 2).permute(1, 0, 2)[:, None].expand(-1, query_BRSD.size(1), -1, -1)
        for x in (key, value)
    )
    context_BRSD = scaled_dot_product_attention(query_BRSD, key, value, is_causal=True, scale=scale)
    return context_BRSD.permute(2, 0, 1, 3).unflatten(1, (num_rows, num_kv_heads)).flatten(2)
