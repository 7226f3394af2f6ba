"""Adapters of layers that the tensor ranks share.

Where a layer is column-parallel A is replicated and B is cut as the layer's weight is; where it is
row-parallel A is cut and B replicated; where every rank has all of it so is its adapter. What the
tensor ranks exchange is the adapter's narrow middle, rank features wide. Under sequence parallelism
a replicated factor sees this rank's tokens only, so that its gradient is partial:
`.sequence_parallel` tells Megatron to sum it, as it does for norms
(megatron/core/distributed/finalize_model_grads.py).

Legend: S positions, B rows, R rank, W width of a layer's output on this rank.
"""

import contextlib

from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import Module, Parameter, ParameterDict
from torch.nn.functional import dropout, linear

from gkdplan.runplan.models import LoraPlan
from gkdplan.runtime.megatron.lora.parts import AddToParts, Part


class Adapter(Module):
    """A [targets x R, in] of all targets of a layer, stacked, and a B [out, R] of each part of
    them, as this rank holds them."""

    def __init__(
        self, weight: Parameter, config: TransformerConfig, lora: LoraPlan, parts: tuple[Part, ...]
    ) -> None:
        super().__init__()
        self.is_on = True
        self._parts, self._rank = parts, lora.rank
        self._scale, self._dropout = lora.alpha / lora.rank, lora.dropout
        self.sequence_parallel = config.sequence_parallel
        num_targets = len({part.target for part in parts})
        self.a = Parameter(weight.new_empty(num_targets * lora.rank, weight.shape[1]))
        self.b = ParameterDict(
            [(part.name, Parameter(weight.new_empty(part.num_rows, lora.rank))) for part in parts]
        )

    def _narrow(self, input: Tensor, *, is_cut: bool) -> Tensor:
        """alpha / rank A dropout(input), [S, B, targets x R]. A cut input has its own mask on each
        rank, a whole one the same on all."""
        if self._dropout > 0.0:
            states = get_cuda_rng_tracker().fork() if is_cut else contextlib.nullcontext()
            with states:
                input = dropout(input, self._dropout, self.training)
        return linear(input, self.a) * self._scale


class ColumnAdapter(Adapter):
    """Input [S / t, B, in] under sequence parallelism, else [S, B, in]; output [S, B, W]."""

    def __init__(
        self, weight: Parameter, config: TransformerConfig, lora: LoraPlan, parts: tuple[Part, ...]
    ) -> None:
        super().__init__(weight, config, lora, parts)
        self.a.sequence_parallel = config.sequence_parallel
        for factor in self.b.values():
            set_tensor_model_parallel_attributes(factor, True, 0, 1)

    def forward(self, input: Tensor, output_SBW: Tensor) -> Tensor:
        narrow = self._narrow(input, is_cut=self.sequence_parallel)
        if self.sequence_parallel:
            narrow_SBR = gather_from_sequence_parallel_region(
                narrow, tensor_parallel_output_grad=True
            )
        else:
            narrow_SBR = copy_to_tensor_model_parallel_region(narrow)
        return AddToParts.apply(output_SBW, narrow_SBR, self._parts, *self.b.values())


class WholeAdapter(Adapter):
    """Of a layer whose weight every tensor rank has whole: input [S / t, B, in] and output
    [S / t, B, W] under sequence parallelism, else of all S."""

    def __init__(
        self, weight: Parameter, config: TransformerConfig, lora: LoraPlan, parts: tuple[Part, ...]
    ) -> None:
        super().__init__(weight, config, lora, parts)
        for factor in self.parameters():
            factor.sequence_parallel = config.sequence_parallel

    def forward(self, input: Tensor, output: Tensor) -> Tensor:
        narrow = self._narrow(input, is_cut=self.sequence_parallel)
        return AddToParts.apply(output, narrow, self._parts, *self.b.values())


class RowAdapter(Adapter):
    """Input [S, B, in / t]; output [S / t, B, W] under sequence parallelism, else [S, B, W]."""

    def __init__(
        self, weight: Parameter, config: TransformerConfig, lora: LoraPlan, parts: tuple[Part, ...]
    ) -> None:
        super().__init__(weight, config, lora, parts)
        set_tensor_model_parallel_attributes(self.a, True, 1, 1)
        for factor in self.b.values():
            factor.sequence_parallel = config.sequence_parallel

    def forward(self, input: Tensor, output: Tensor) -> Tensor:
        narrow = self._narrow(input, is_cut=True)
        if self.sequence_parallel:
            narrow = reduce_scatter_to_sequence_parallel_region(narrow)
        else:
            narrow = reduce_from_tensor_model_parallel_region(narrow)
        (factor,) = self.b.values()
        return output + linear(narrow, factor)
