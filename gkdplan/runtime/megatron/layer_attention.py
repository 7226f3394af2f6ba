"""Megatron's self-attention in a family whose layers do not all attend alike."""

import copy
import math
from collections.abc import Callable
from typing import Any

from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from gkdplan.runtime.megatron.rotary import rotation_of
from gkdplan.runtime.megatron.scores import scores_of
from gkdplan.shape import ModelShape


class LayerAttention(SelfAttention):  # type: ignore[misc]
    """Self-attention that knows what its layer does: `rotation` and `scores`."""

    def __init__(
        self,
        config: TransformerConfig,
        submodules: Any,
        layer_number: int,
        *,
        shape: ModelShape,
        **options: Any,
    ) -> None:
        rotation = rotation_of(shape, layer_number - 1)
        super().__init__(_with_factor(config, rotation.factor), submodules, layer_number, **options)
        self.rotation = rotation
        self.scores = scores_of(shape.attention, layer_number - 1)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        *,
        rotary_pos_emb: Tensor,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Megatron's, by this layer's angles of all that `RotaryAngles` gives."""
        angles = self.rotation.angles(rotary_pos_emb)
        output: tuple[Tensor, Tensor | None] = super().forward(
            hidden_states, attention_mask, rotary_pos_emb=angles, **options
        )
        return output

    def query_key_value(
        self, hidden_SBH: Tensor, turn: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value; `turn` gives the first two their positions."""
        query, key, value = self.get_query_key_value_tensors(hidden_SBH)
        return turn(query), turn(key), value


def _with_factor(config: TransformerConfig, factor: float) -> TransformerConfig:
    """Let Megatron multiply cosines and sines, which it does by the numbers of YaRN only: by
    0.1 mscale log(scale) + 1 (megatron/core/models/common/embeddings/yarn_rotary_pos_embedding.py,
    `_yarn_get_concentration_factor`)."""
    if factor == 1.0:
        return config
    own = copy.copy(config)
    own.yarn_rotary_scaling_factor = math.e
    own.yarn_mscale = (factor - 1.0) / 0.1
    own.yarn_mscale_all_dim = 0.0
    return own
