"""Experts in a world without contents: every expert gets an equal share of the tokens.

Under fake tensors a router's choice has a shape and no values. What Megatron's all-to-all
dispatcher reads from it, numbers of tokens, is decided here; everything else runs as it is.
"""

from typing import Any

import numpy as np
import torch
from megatron.core.transformer.moe import token_dispatcher
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler, permute
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def _share_tokens(self: MoEAlltoAllTokenDispatcher, routing_map_NE: Tensor) -> np.ndarray:
    """In place of `preprocess`: the number of tokens of each of this rank's experts.

    Shares differ by one token where they cannot be equal; all ranks share alike.
    """
    num_tokens, num_experts = routing_map_NE.shape
    self.num_out_tokens = num_tokens * self.config.moe_router_topk
    ends = np.arange(num_experts + 1) * self.num_out_tokens // num_experts
    tokens_of_experts = np.diff(ends)
    of_local_experts = tokens_of_experts[self.local_expert_indices]
    num_ranks = self.tp_size * self.ep_size
    if num_ranks > 1:
        self.input_splits = tokens_of_experts.reshape(self.ep_size, -1).sum(axis=1).tolist()
        self.output_splits = [int(of_local_experts.sum())] * self.ep_size
        self.output_splits_tp = np.full(self.tp_size, of_local_experts.sum() * self.ep_size)
    self.num_global_tokens_per_local_expert = np.tile(of_local_experts, (num_ranks, 1))
    chunks = np.arange(num_ranks * self.num_local_experts)
    self.sort_input_by_local_experts = chunks.reshape(-1, self.num_local_experts).T.ravel()
    self.restore_output_by_local_experts = chunks.reshape(self.num_local_experts, -1).T.ravel()
    return of_local_experts * num_ranks


def _permute(
    tokens: Tensor, routing_map: Tensor, *, num_out_tokens: int, **others: Any
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Megatron's own, in which `num_out_tokens` entries of the routing map are set."""
    with _MaskWith(num_out_tokens):
        return permute(tokens, routing_map, num_out_tokens=num_out_tokens, **others)


class _MaskWith(TorchDispatchMode):
    """While entered, every mask has `num_set` entries set."""

    def __init__(self, num_set: int) -> None:
        super().__init__()
        self._num_set = num_set

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        if func is torch.ops.aten.masked_select.default:
            return args[0].new_empty(self._num_set)
        return func(*args, **(kwargs or {}))


STAND_INS = (
    (MoEAuxLossAutoScaler, "main_loss_backward_scale", None),  # a tensor that outlives its world
    (MoEAlltoAllTokenDispatcher, "preprocess", _share_tokens),
    (token_dispatcher, "permute", _permute),
)
