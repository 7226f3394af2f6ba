"""Attention whose queries, keys and values come from latents, of Megatron's own linear layers.

Megatron has one (megatron/core/transformer/multi_latent_attention.py), which turns by angles that
each layer makes for itself, so that tokens of several rows cannot lie one after the other, and
whose local layers cut the map to the latents over the tensor axis and give each rank's gradient of
the key's turned part as if it were that of all. Here these maps are whole on every rank.

Legend: S positions, B rows, N heads of this rank, D size of a query and of a key, V of a value, R
coordinates that turn.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.models.common.embeddings.rope_utils import apply_rotary_pos_emb
from megatron.core.tensor_parallel.layers import RowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.attention import Attention
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.functional import linear

from gkdplan.runtime.megatron.rotary import rotation_of
from gkdplan.runtime.megatron.scores import scores_of
from gkdplan.shape import ModelShape

LATENT_NORM_EPS = 1e-6
"""Of the norms of latents, whatever `rms_norm_eps` is
(transformers/models/deepseek_v3/modeling_deepseek_v3.py, DeepseekV3Attention)."""


class LatentAttention(Attention):  # type: ignore[misc]
    """Self-attention from latents that knows what its layer does: `rotation` and `scores`."""

    def __init__(
        self,
        config: TransformerConfig,
        submodules: Any,
        layer_number: int,
        *,
        shape: ModelShape,
        **options: Any,
    ) -> None:
        super().__init__(config, submodules, layer_number, attention_type="self", **options)
        latent = shape.latent
        assert latent is not None, f"{shape.family} has no latents"
        self.rotation = rotation_of(shape, layer_number - 1)
        self.scores = scores_of(shape.attention, layer_number - 1)
        self.val_hidden_size = latent.value_dim
        self._sizes_of_keys = [shape.head_dim - latent.rotated_size, latent.rotated_size]
        self._sizes_of_values = [shape.head_dim - latent.rotated_size, latent.value_dim]
        self._sizes_of_latents = [latent.kv_rank, latent.rotated_size]
        if latent.query_rank is None:
            self.linear_q_proj = self._from_all(submodules, shape.hidden_size, shape.query_size)
        else:
            self.linear_q_down_proj = WholeLinear(config, shape.hidden_size, latent.query_rank)
            self.q_layernorm = self._norm(submodules.q_layernorm, latent.query_rank)
            self.linear_q_up_proj = self._from_all(submodules, latent.query_rank, shape.query_size)
        self.linear_kv_down_proj = WholeLinear(
            config, shape.hidden_size, sum(self._sizes_of_latents)
        )
        self.kv_layernorm = self._norm(submodules.k_layernorm, latent.kv_rank)
        self.linear_kv_up_proj = self._from_all(submodules, latent.kv_rank, shape.latent_kv_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        *,
        rotary_pos_emb: Tensor,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Of Megatron's hidden states [S, B, H], by the angles that `RotaryAngles` gives."""
        turn = partial(
            apply_rotary_pos_emb,
            freqs=self.rotation.angles(rotary_pos_emb),
            config=self.config,
            mscale=self.rotation.factor,
            cp_group=self.pg_collection.cp,
        )
        query, key, value = self.query_key_value(hidden_states, turn)
        is_made_again = self.checkpoint_core_attention and self.training
        attend = self._checkpointed_attention_forward if is_made_again else self.core_attention
        output: tuple[Tensor, Tensor | None] = self.linear_proj(
            attend(query, key, value, attention_mask)
        )
        return output

    def query_key_value(
        self, hidden_SBH: Tensor, turn: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query and key [S, B, N, D] and value [S, B, N, V]; `turn` gives [S, B, any, R] the
        positions."""
        still, turning = self._queries(hidden_SBH).split(self._sizes_of_keys, dim=-1)
        query = torch.cat((still, turn(turning)), dim=-1)
        latents, _ = self.linear_kv_down_proj(hidden_SBH)
        latent, of_position = latents.split(self._sizes_of_latents, dim=-1)
        of_position = turn(self._for_own_heads(of_position)[:, :, None])
        still, value = self._by_head(
            self.linear_kv_up_proj(self.kv_layernorm(latent))[0], sum(self._sizes_of_values)
        ).split(self._sizes_of_values, dim=-1)
        key = torch.cat((still, of_position.expand(*still.shape[:3], -1)), dim=-1)
        return query, key, value

    def get_query_key_value_tensors(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Megatron's way of asking, which has no angles for what turns."""
        raise AssertionError("queries and keys from latents are asked for by `query_key_value`")

    def _queries(self, hidden_SBH: Tensor) -> Tensor:
        if hasattr(self, "linear_q_proj"):
            queries, _ = self.linear_q_proj(hidden_SBH)
        else:
            latent, _ = self.linear_q_down_proj(hidden_SBH)
            queries, _ = self.linear_q_up_proj(self.q_layernorm(latent))
        return self._by_head(queries, sum(self._sizes_of_keys))

    def _by_head(self, features: Tensor, size: int) -> Tensor:
        return features.unflatten(-1, (self.num_attention_heads_per_partition, size))

    def _for_own_heads(self, of_position_SBR: Tensor) -> Tensor:
        """Of all positions, for the heads of this rank, whose gradients are summed over ranks."""
        group = self.pg_collection.tp
        if self.config.sequence_parallel:
            return gather_from_sequence_parallel_region(of_position_SBR, group=group)
        return copy_to_tensor_model_parallel_region(of_position_SBR, group=group)

    def _from_all(self, submodules: Any, size: int, output_size: int) -> Module:
        """Megatron's linear layer of which every rank has its heads' rows."""
        return build_module(
            submodules.linear_qkv,
            size,
            output_size,
            config=self.config,
            init_method=self.config.init_method,
            gather_output=False,
            bias=False,
            skip_bias_add=False,
            is_expert=False,
            tp_comm_buffer_name="latent",
            tp_group=self.pg_collection.tp,
        )

    def _norm(self, norm: type[Module], size: int) -> Module:
        return norm(config=self.config, hidden_size=size, eps=LATENT_NORM_EPS)


class WholeLinear(Module):
    """[..., in] to [..., out] by a weight that every tensor rank has whole: under sequence
    parallelism each for its tokens, so that Megatron sums up its gradients. It has no bias, and
    says so as Megatron's linear layers do."""

    def __init__(self, config: TransformerConfig, size: int, output_size: int) -> None:
        super().__init__()
        self.weight = Parameter(torch.empty(output_size, size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel
        self._forward_impl = linear

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self._forward_impl(x, self.weight), None


class ContextProjection(RowParallelLinear):  # type: ignore[misc]
    """Megatron's output projection of a context that is not as wide as the queries."""

    def __init__(self, _: int, output_size: int, *, context_size: int, **options: Any) -> None:
        super().__init__(context_size, output_size, **options)


def latent_attention_spec(spec: ModuleSpec, shape: ModelShape, norm: type[Module]) -> ModuleSpec:
    """The same modules as `spec`, those of Megatron's self-attention, for one from latents."""
    parts = spec.submodules
    parts.q_layernorm = parts.k_layernorm = norm
    parts.linear_proj = ModuleSpec(ContextProjection, params={"context_size": shape.context_size})
    return ModuleSpec(LatentAttention, params={**spec.params, "shape": shape}, submodules=parts)
