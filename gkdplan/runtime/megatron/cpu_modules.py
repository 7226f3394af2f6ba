"""Modules for the local spec where Transformer Engine is absent.

Legend: S query positions, K key positions, B rows, N query heads, G kv heads, D head size.
"""

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class RMSNorm(torch.nn.RMSNorm):
    """RMSNorm whose weight tells Megatron that its gradient is partial under sequence parallelism.

    Megatron's own fallback (megatron/core/transformer/torch_norm.py) refuses sequence parallelism.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class CoreAttention(torch.nn.Module):
    """Causal attention through torch's fused kernel; kv heads are shared, never repeated.

    Takes and returns Megatron's layout: query [S, B, N, D], key and value [K, B, G, D] to
    [S, B, N * D]. Without a mask, query i sees the keys up to K - S + i. `attention_mask`
    [B or 1, 1, S, K] is boolean with True for what is hidden and must hold causality itself; a
    query that sees nothing yields zeros.
    """

    def __init__(self, config: TransformerConfig, **_: object) -> None:
        super().__init__()
        self.dropout = config.attention_dropout
        self.softmax_scale = config.softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: object = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: object = None,
    ) -> Tensor:
        assert attention_bias is None
        assert packed_seq_params is None
        num_queries, num_keys = query.size(0), key.size(0)
        visible = None if attention_mask is None else ~attention_mask
        if visible is None and 1 < num_queries < num_keys:
            visible = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device)
            visible = visible.tril(num_keys - num_queries)
        context_BNSD = scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=visible is None and num_queries > 1,
            scale=self.softmax_scale,
            enable_gqa=True,
        )
        return context_BNSD.permute(2, 0, 1, 3).flatten(2)
