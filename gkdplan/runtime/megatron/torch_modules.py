"""Modules for Megatron's local spec that need nothing beside torch, on a CPU and on CUDA.

Legend: S positions, B rows, N query heads, G kv heads, D head size.
"""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from gkdplan.runtime.megatron.causal_attention import causal_attention
from gkdplan.runtime.megatron.context_attention import ContextAttention


class CoreAttention(torch.nn.Module):
    """Causal attention of training rows through torch's fused kernel, which repeats no kv head.

    Takes and returns Megatron's layout: query [S, B, N, D], key and value [S, B, G, D] to
    [S, B, N * D], of this rank's share of the positions under context parallelism. Rows are padded
    on the right, so that causality is all the mask there is.
    """

    def __init__(self, config: TransformerConfig, pg_collection: Any = None, **_: object) -> None:
        super().__init__()
        self._context_group = None if pg_collection is None else pg_collection.cp
        assert config.attention_dropout == 0.0
        assert config.softmax_scale is None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: None,
        attn_mask_type: object = None,
        attention_bias: None = None,
        packed_seq_params: None = None,
    ) -> Tensor:
        assert attention_mask is attention_bias is packed_seq_params is None
        if self._context_group is not None and self._context_group.size() > 1:
            return ContextAttention.apply(query, key, value, self._context_group).flatten(2)
        return causal_attention(query, key, value)
