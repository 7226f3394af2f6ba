"""Modules for Megatron's local spec that need nothing beside torch, on a CPU and on CUDA.

Legend: S positions, B rows, N query heads, G kv heads, D head size.
"""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from gkdplan.attention import PLAIN_ATTENTION, AttentionShape
from gkdplan.runtime.megatron.attend import attend
from gkdplan.runtime.megatron.scores import scores_of


class CoreAttention(torch.nn.Module):
    """Causal attention of training rows, as the family's layer of this number attends.

    Takes and returns Megatron's layout: query [S, B, N, D], key and value [S, B, G, D] to
    [S, B, N * D], of this rank's share of the positions under context parallelism. Rows are padded
    on the right, so that causality is all the mask there is.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: Any = None,
        *,
        attention: AttentionShape = PLAIN_ATTENTION,
        **_: object,
    ) -> None:
        super().__init__()
        self._context_group = None if pg_collection is None else pg_collection.cp
        self._scores = scores_of(attention, layer_number - 1)
        assert config.attention_dropout == 0.0
        assert config.softmax_scale == attention.scale

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
        return attend(query, key, value, self._scores, self._context_group)
