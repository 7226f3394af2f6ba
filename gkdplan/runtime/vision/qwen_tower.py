"""Qwen2.5-VL's tower, whose last part is the projector, as a module of transformers.

Legend: I images, K patches of all images, F their tokens, H features of the decoder.
"""

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)

from gkdplan.runtime.vision.pixels import Pixels
from gkdplan.vision import QwenVision


class QwenTower(nn.Module):  # type: ignore[misc]
    """The vision transformer and its merger, allocated but not set; rotary frequencies are float32
    in every dtype, as transformers has them."""

    def __init__(self, shape: QwenVision, dtype: torch.dtype) -> None:
        super().__init__()
        config = Qwen2_5_VLVisionConfig(
            hidden_size=shape.hidden_size,
            depth=shape.num_layers,
            num_heads=shape.num_heads,
            intermediate_size=shape.ffn_hidden_size,
            patch_size=shape.patch_size,
            temporal_patch_size=shape.temporal_patch_size,
            spatial_merge_size=shape.merge_size,
            window_size=shape.window_size,
            fullatt_block_indexes=list(shape.full_layers),
            out_hidden_size=shape.output_size,
        )
        with no_init_weights():
            self.visual = Qwen2_5_VisionTransformerPretrainedModel(config)
        for parameter in self.visual.parameters():
            parameter.data = parameter.data.to(dtype)

    def forward(self, pixels: Pixels) -> tuple[Tensor, ...]:
        """The features of all images, whose `values` are [K, numbers of a patch], one after the
        other: [F, H]."""
        return (self.visual(pixels.values, grid_thw=pixels.grids_I3).pooler_output,)
