"""Low-rank adapters on Megatron's linear layers, whose own weights are frozen.

Where a layer is column-parallel A is replicated and B is cut as the layer's weight is; where it is
row-parallel A is cut and B replicated. What the tensor ranks exchange is the adapter's narrow
middle, rank features wide. Under sequence parallelism a replicated factor sees this rank's tokens
only, so that its gradient is partial: `.sequence_parallel` tells Megatron to sum it, as it does for
norms (megatron/core/distributed/finalize_model_grads.py).

Legend: S positions, B rows, R rank, W width of a layer's output on this rank, G kv groups.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor
from torch.nn import Module, Parameter, ParameterDict
from torch.nn.functional import dropout, linear

from gkdplan.runplan.model import LoraPlan
from gkdplan.shape import ModelShape

WHOLE = -1
"""The dimension that is cut of a factor that is not."""
ADAPTER = "lora"
"""The name under which a linear layer holds its adapter."""


@dataclass(frozen=True, slots=True)
class Part:
    """Columns [start, start + width) of each of `num_groups` equal stretches of a layer's output:
    those of one projection, which `target` adapts, alone or with others by the same A."""

    name: str
    target: str | None
    num_groups: int
    start: int
    width: int

    @property
    def num_rows(self) -> int:
        """Of the projection's weight on this rank."""
        return self.num_groups * self.width

    def of(self, output_SBW: Tensor) -> Tensor:
        """The projection's own columns, a view [S, B, G, width]."""
        return output_SBW.unflatten(-1, (self.num_groups, -1)).narrow(-1, self.start, self.width)


def add_adapters(model: GPTModel, lora: LoraPlan, shape: ModelShape) -> None:
    """Freeze the model and give the linear layers of its decoder their adapters, allocated but not
    set: `adapters.draw_adapters` sets them. A norm of a layer's output comes after its adapter.

    The tensor degree divides the kv heads where q, k or v are targets. The embedding's output asks
    for a gradient, so that every layer is differentiated alike and recomputed layers are too.
    """
    model.requires_grad_(False)
    degree = model.config.tensor_model_parallel_size
    for layer in model.decoder.layers:
        for module, kind, parts in _linear_layers(layer, shape, degree):
            adapted = tuple(
                replace(part, target=lora.target_of(part.name))
                for part in parts
                if lora.target_of(part.name)
            )
            if adapted:
                adapter = kind(module.weight, model.config, lora, adapted)
                module.add_module(ADAPTER, adapter)
                module.register_forward_hook(_add_adapter, prepend=True)
    if model.pre_process:
        model.embedding.register_forward_hook(_require_gradient)


def _linear_layers(
    layer: TransformerLayer, shape: ModelShape, degree: int
) -> Iterator[tuple[Module, type["Adapter"], Iterator["Part"]]]:
    """Those that can have an adapter, the kind of it, and the projections that they hold; a shared
    expert has none."""
    attention, mlp = layer.self_attention, layer.mlp
    query = shape.query_size // shape.num_kv_heads
    yield (
        attention.linear_qkv,
        ColumnAdapter,
        _parts(
            shape.num_kv_heads // degree,
            q_proj=query,
            k_proj=shape.head_dim,
            v_proj=shape.head_dim,
        ),
    )
    yield attention.linear_proj, RowAdapter, _parts(1, o_proj=shape.hidden_size)
    if shape.moe is None:
        ffn = shape.ffn_hidden_size // degree
        yield mlp.linear_fc1, ColumnAdapter, _parts(1, gate_proj=ffn, up_proj=ffn)
        yield mlp.linear_fc2, RowAdapter, _parts(1, down_proj=shape.hidden_size)
        return
    ffn = shape.moe.expert_ffn_hidden_size // layer.config.expert_tensor_parallel_size
    for expert in mlp.experts.local_experts:
        yield expert.linear_fc1, ExpertColumnAdapter, _parts(1, gate_proj=ffn, up_proj=ffn)
        yield expert.linear_fc2, ExpertRowAdapter, _parts(1, down_proj=shape.hidden_size)


def is_adapter(parameter: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return f".{ADAPTER}." in parameter


@contextlib.contextmanager
def adapters_off(chunks: Sequence[GPTModel]) -> Iterator[None]:
    """While entered the models compute what their frozen base does."""
    adapters = [m for chunk in chunks for m in chunk.modules() if isinstance(m, Adapter)]
    for adapter in adapters:
        adapter.is_on = False
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.is_on = True


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
        return _AddToParts.apply(output_SBW, narrow_SBR, self._parts, *self.b.values())


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
        return _AddToParts.apply(output, narrow, self._parts, *self.b.values())


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


class _AddToParts(torch.autograd.Function):
    """Adds B_i z_i to the columns of each part, in place: no part of a fused projection is copied,
    and of the operands only z [S, B, targets x R] is kept."""

    @staticmethod
    def forward(
        ctx: Any, output_SBW: Tensor, narrow_SBR: Tensor, parts: tuple[Part, ...], *factors: Tensor
    ) -> Tensor:
        for part, narrow, factor in _each(parts, narrow_SBR, factors):
            columns = part.of(output_SBW)
            columns.add_(linear(narrow, factor).view_as(columns))
        ctx.mark_dirty(output_SBW)
        ctx.save_for_backward(narrow_SBR, *factors)
        ctx.parts = parts
        return output_SBW

    @staticmethod
    def backward(ctx: Any, gradient_SBW: Tensor) -> tuple[Tensor | None, ...]:
        narrow_SBR, *factors = ctx.saved_tensors
        narrow_gradients: dict[str | None, Tensor] = {}
        factor_gradients = []
        for part, narrow, factor in _each(ctx.parts, narrow_SBR, factors):
            columns = part.of(gradient_SBW).flatten(-2)
            of_narrow = columns @ factor
            before = narrow_gradients.get(part.target)
            narrow_gradients[part.target] = of_narrow if before is None else before.add_(of_narrow)
            factor_gradients.append(columns.flatten(0, -2).t() @ narrow.flatten(0, -2))
        of_narrow_SBR = torch.cat(list(narrow_gradients.values()), -1)
        return gradient_SBW, of_narrow_SBR, None, *factor_gradients


def _each(
    parts: tuple[Part, ...], narrow_SBR: Tensor, factors: Any
) -> Iterator[tuple[Part, Tensor, Tensor]]:
    targets = list(dict.fromkeys(part.target for part in parts))
    narrow = dict(zip(targets, narrow_SBR.chunk(len(targets), -1), strict=True))
    for part, factor in zip(parts, factors, strict=True):
        yield part, narrow[part.target], factor


def _parts(num_groups: int, **widths: int) -> Iterator[Part]:
    """The projections of a layer, side by side in each group."""
    start = 0
    for name, width in widths.items():
        yield Part(name, None, num_groups, start, width)
        start += width


def _add_adapter(module: Module, inputs: tuple[Tensor, ...], result: Any) -> Any:
    output, bias = result
    adapter = getattr(module, ADAPTER)
    return (adapter(inputs[0], output), bias) if adapter.is_on else result


def _require_gradient(_: Module, __: Any, embedded: Tensor) -> None:
    if torch.is_grad_enabled():
        embedded.requires_grad_()
