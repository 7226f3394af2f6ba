"""Adapters of the experts of a layer, each with its own."""

from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import linear

from gkdplan.runplan.models import LoraPlan
from gkdplan.runtime.megatron.lora.dense import Adapter
from gkdplan.runtime.megatron.lora.parts import AddToParts, Part

WHOLE = -1
"""The dimension that is cut of a factor that is not."""


class ExpertAdapter(Adapter):
    """Of one expert's linear layer, which sees the rows that were sent to it.

    The ranks of the experts' own tensor axis see the same rows. A factor that they all have gets a
    part of its gradient on each, which is summed; it is one of theirs in the norm of gradients.
    """

    def __init__(
        self, weight: Parameter, config: TransformerConfig, lora: LoraPlan, parts: tuple[Part, ...]
    ) -> None:
        super().__init__(weight, config, lora, parts)
        self._group = parallel_state.get_expert_tensor_parallel_group()
        for factor in self.parameters():
            factor.allreduce = weight.allreduce

    def _set_cut(self, factor: Parameter, dim: int) -> None:
        set_tensor_model_parallel_attributes(factor, True, dim, 1)

    def _set_whole(self, factor: Parameter) -> None:
        set_tensor_model_parallel_attributes(factor, True, WHOLE, 1)
        factor.shared = self._group.rank() > 0

    def _summed(self, factor: Parameter) -> Tensor:
        return copy_to_tensor_model_parallel_region(factor, group=self._group)


class ExpertColumnAdapter(ExpertAdapter):
    """Input [n, in], output [n, W], of n rows."""

    def __init__(
        self, weight: Parameter, config: TransformerConfig, lora: LoraPlan, parts: tuple[Part, ...]
    ) -> None:
        super().__init__(weight, config, lora, parts)
        self._set_whole(self.a)
        for factor in self.b.values():
            self._set_cut(factor, 0)

    def forward(self, input: Tensor, output: Tensor) -> Tensor:
        narrow = linear(input, self._summed(self.a)) * self._scale
        return AddToParts.apply(output, narrow, self._parts, *self.b.values())


class ExpertRowAdapter(ExpertAdapter):
    """Input [n, in / t], output [n, W], this rank's part of a sum that comes later."""

    def __init__(
        self, weight: Parameter, config: TransformerConfig, lora: LoraPlan, parts: tuple[Part, ...]
    ) -> None:
        super().__init__(weight, config, lora, parts)
        self._set_cut(self.a, 1)
        for factor in self.b.values():
            self._set_whole(factor)

    def forward(self, input: Tensor, output: Tensor) -> Tensor:
        narrow = linear(input, self.a) * self._scale
        (factor,) = self.b.values()
        return output + linear(narrow, self._summed(factor))
