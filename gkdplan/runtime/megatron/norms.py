"""Norms that families place and shape otherwise than Megatron's layers do.

Legend: S positions, B rows, N heads of this rank, D head size, H hidden size.
"""

from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import Module, Parameter
from torch.nn.functional import rms_norm


class RMSNorm(torch.nn.RMSNorm):
    """RMSNorm whose weight tells Megatron that its gradient is partial under sequence parallelism.

    Megatron's own fallback (megatron/core/transformer/torch_norm.py) refuses sequence parallelism.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class ZeroCenteredRMSNorm(RMSNorm):
    """As Gemma's: multiplies by 1 + weight, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 + self.weight.float()
        return rms_norm(x.float(), self.normalized_shape, scale, self.eps).to(x.dtype)


class AllHeadsNorm(Module):
    """RMSNorm over all heads of a token at once, [S, B, N, D], in float32: tensor ranks, which have
    N heads each, add up their squares. The weight [N * D] is cut as the heads are."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, num_heads: int, eps: float
    ) -> None:
        super().__init__()
        self._num_features = num_heads * hidden_size
        self._eps = eps
        share = self._num_features // config.tensor_model_parallel_size
        self.weight = Parameter(torch.empty(share, dtype=config.params_dtype))
        set_tensor_model_parallel_attributes(self.weight, True, 0, 1)
        self.group: ProcessGroup | None = None

    def forward(self, x_SBND: Tensor) -> Tensor:
        x = x_SBND.flatten(-2).float()
        squares = x.square().sum(-1, keepdim=True)
        if self.group is not None and self.group.size() > 1:
            summed = reduce_from_tensor_model_parallel_region(squares, group=self.group)
            squares = copy_to_tensor_model_parallel_region(summed, group=self.group)
        normed = x * torch.rsqrt(squares / self._num_features + self._eps)
        return (normed * self.weight.float()).to(x_SBND.dtype).view_as(x_SBND)


def add_output_norms(model: GPTModel, norm: type[Module]) -> None:
    """Give attention and MLP of every layer a norm of their output, before the residual sum.

    It lies in their last linear layer, whose output it is, so that everything that calls the layer
    has it.
    """
    config = model.config
    for layer in model.decoder.layers:
        for linear in (layer.self_attention.linear_proj, layer.mlp.linear_fc2):
            linear.output_norm = norm(
                config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon
            )
            linear.register_forward_hook(_norm_output)


def join_heads(model: GPTModel, group: ProcessGroup) -> None:
    """Tell norms over all heads which ranks have the others."""
    for module in model.modules():
        if isinstance(module, AllHeadsNorm):
            module.group = group


def _norm_output(linear: Module, _: Any, result: tuple[Tensor, Tensor | None]) -> Any:
    output, bias = result
    assert bias is None
    return linear.output_norm(output), None
