"""One micro-batch on one pipeline stage: seconds of a forward, by what they are spent on.

N tokens of a rank, h hidden size, k kv size, t, c, e, x tensor, context, expert and expert-tensor
degrees, w bytes of an element.
"""

from dataclasses import dataclass

from gkdplan.planner.timing.flops import (
    attention_flops,
    layer_flops,
    mean_of_layers,
    routed_elements,
)
from gkdplan.planner.timing.machine import Machine
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import ModelPlan


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of `num_layers` layers of a model, with the rows of one micro-batch. Of layers with
    experts and without each stage is taken to have its share."""

    model: ModelPlan
    degrees: AxisDegrees
    machine: Machine
    num_layers: int
    is_first: bool
    is_last: bool
    rows: int
    tokens_of_row: int

    @property
    def num_tokens(self) -> float:
        """Of the rank's context shard."""
        return self.rows * self.tokens_of_row / self.degrees.context

    @property
    def hidden_bytes(self) -> float:
        """Hidden states of the rank's tokens, not divided over the tensor axis: N h w."""
        return self.num_tokens * self.model.shape.hidden_size * self.model.dtype.num_bytes

    @property
    def matrix_elements(self) -> float:
        """Of the layers, experts left out, the embedding and the head."""
        shape = self.model.shape
        whole = mean_of_layers(shape, lambda kind: kind.num_parameters_per_layer)
        layers = self.num_layers * (whole - self._routed_elements)
        tied_here = shape.tied_embeddings and self.is_first
        matrices = self.is_first + (self.is_last and not tied_here)
        ends = matrices * self.model.padded_vocab_size * shape.hidden_size
        return (layers + ends) / self.degrees.tensor

    @property
    def expert_elements(self) -> float:
        """Of the experts that the rank holds."""
        ranks = self.degrees.expert * self.degrees.expert_tensor
        return self.num_layers * self._routed_elements / ranks

    @property
    def trains_base(self) -> bool:
        """Whether the decoder's own weights have gradients, not only adapters or eyes."""
        is_frozen = self.model.freeze is not None and self.model.freeze.language
        return self.model.lora is None and not is_frozen

    @property
    def adapter_elements(self) -> float:
        """Of the adapters of the stage's layers, taken as divided over the tensor axis."""
        if self.model.lora is None:
            return 0.0
        of_layer = self.model.lora.num_parameters / self.model.shape.num_layers
        return self.num_layers * of_layer / self.degrees.tensor

    @property
    def trained_elements(self) -> float:
        """Of what has gradients and a state in the optimizer, experts left out."""
        return self.matrix_elements if self.trains_base else self.adapter_elements

    @property
    def trained_expert_elements(self) -> float:
        return self.expert_elements if self.trains_base else 0.0

    @property
    def vocab_rows(self) -> float:
        return self.model.padded_vocab_size / self.degrees.tensor

    def backward_s(self) -> float:
        """The gradients of inputs and of weights, each as many products as the forward; of a frozen
        base those of inputs only, and twice those of the attention, which has no weights."""
        if self.trains_base:
            return 2 * self.forward_s()
        return self.forward_s() + self.attention_s()

    def adapters_s(self) -> float:
        """A forward of the adapters: two FLOPs for each element and token."""
        flops = 2 * self.num_tokens * self.adapter_elements
        return self.machine.compute_s(flops, self.model.dtype)

    def forward_s(self) -> float:
        """Compute of all layers; a layer takes no less than its launch."""
        flops = layer_flops(self.model.shape, self.num_tokens, self.tokens_of_row)
        compute = self.machine.compute_s(flops / self.degrees.tensor, self.model.dtype)
        return self.num_layers * max(compute, self.machine.assumed.layer_launch_s)

    def attention_s(self) -> float:
        """The part of `forward_s` that scores and weighs."""
        flops = attention_flops(self.model.shape, self.num_tokens, self.tokens_of_row)
        compute = self.machine.compute_s(flops / self.degrees.tensor, self.model.dtype)
        return self.num_layers * compute

    def tensor_s(self, num_collectives: int) -> float:
        """Gathers and scatters of hidden states over the tensor axis; a layer's forward has 4 (with
        sequence parallelism a gather and a scatter around attention and MLP each, without it two
        all-reduces), its backward as many, and 2 gathers more with sequence parallelism
        (megatron/core/tensor_parallel/layers.py)."""
        tensor = self.degrees.tensor
        one = self.machine.collective_s(self.hidden_bytes, tensor, span=tensor)
        return self.num_layers * num_collectives * one

    def ring_s(self) -> float:
        """Keys and values handed around the context axis, once: N (k + v) w to each of c - 1
        ranks; values from a latent as wide as keys."""
        context = self.degrees.context
        if context == 1:
            return 0.0
        kv_elements = 2 * self.num_tokens * self.model.shape.kv_size / self.degrees.tensor
        num_bytes = (context - 1) * kv_elements * self.model.dtype.num_bytes
        return self.num_layers * self.machine.link_s(num_bytes, context * self.degrees.tensor)

    def expert_s(self, num_exchanges: int) -> float:
        """All-to-alls of the tokens' copies, one for each of their experts, and the gathers over
        the experts' tensor axis; a forward has 2 (dispatch, combine), a backward as many."""
        moe, degrees = self.model.shape.moe, self.degrees
        if moe is None:
            return 0.0
        sent = self.hidden_bytes / degrees.tensor * moe.num_experts_per_token
        span = degrees.expert * degrees.expert_tensor
        exchange = self.machine.collective_s(sent, degrees.expert, span)
        gather = self.machine.collective_s(
            sent * degrees.expert_tensor, degrees.expert_tensor, degrees.expert_tensor
        )
        shape = self.model.shape
        share = 1 - shape.num_dense_layers / shape.num_layers
        return share * self.num_layers * num_exchanges * (exchange + gather)

    def transfer_s(self) -> float:
        """Hidden states sent to the next stage, for each chunk of the stage."""
        degrees = self.degrees
        if degrees.pipeline == 1:
            return 0.0
        shards = degrees.tensor if degrees.sequence else 1
        ranks_of_a_stage = degrees.tensor * degrees.context * degrees.data
        one = self.machine.link_s(self.hidden_bytes / shards, degrees.pipeline * ranks_of_a_stage)
        return degrees.virtual_pipeline * (one + self.machine.assumed.collective_latency_s)

    @property
    def _routed_elements(self) -> float:
        """Of all experts of a layer, in the mean."""
        return mean_of_layers(self.model.shape, routed_elements)


def stages_of(
    model: ModelPlan, degrees: AxisDegrees, machine: Machine, rows: int, tokens_of_row: int
) -> tuple[Stage, ...]:
    """The stages of a model that differ: the first, the last, and the others by their layers."""
    last = len(model.stage_layers) - 1
    kinds = {
        (sum(chunks), index == 0, index == last): None
        for index, chunks in enumerate(model.stage_layers)
    }
    return tuple(
        Stage(model, degrees, machine, num_layers, is_first, is_last, rows, tokens_of_row)
        for num_layers, is_first, is_last in kinds
    )
