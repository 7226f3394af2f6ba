"""Qwen3-VL's tower, whose last parts are the projectors, as a module of transformers.

Legend: K patches of all images, F their tokens, H features of the decoder.
"""

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from gkdplan.runtime.vision.pixels import Pixels
from gkdplan.vision import Qwen3Vision


class Qwen3Tower(nn.Module):  # type: ignore[misc]
    """The vision transformer and its mergers, allocated but not set; rotary frequencies are float32
    in every dtype, as transformers has them."""

    def __init__(self, shape: Qwen3Vision, dtype: torch.dtype) -> None:
        super().__init__()
        config = Qwen3VLVisionConfig(
            hidden_size=shape.hidden_size,
            depth=shape.num_layers,
            num_heads=shape.num_heads,
            intermediate_size=shape.ffn_hidden_size,
            patch_size=shape.patch_size,
            temporal_patch_size=shape.temporal_patch_size,
            spatial_merge_size=shape.merge_size,
            out_hidden_size=shape.output_size,
            num_position_embeddings=shape.num_positions,
            deepstack_visual_indexes=list(shape.deep_layers),
        )
        with no_init_weights():
            self.visual = Qwen3VLVisionModel(config)
        for parameter in self.visual.parameters():
            parameter.data = parameter.data.to(dtype)

    def forward(self, pixels: Pixels) -> tuple[Tensor, ...]:
        """The features of all images, whose `values` are [K, numbers of a patch], one after the
        other: [F, H], and as many for each of the decoder's first layers that the tower speaks
        to."""
        output = self.visual(pixels.values, grid_thw=pixels.grids_I3)
        return (output.pooler_output, *output.deepstack_features)
