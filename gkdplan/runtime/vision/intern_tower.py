"""InternVL's tower and projector, as modules of transformers.

Legend: T tiles of all images, P pixels a side, S patches a side, M patches a side of a token, C
width of a state, F tokens of all images, H features of the decoder.
"""

import torch
from torch import Tensor, nn
from transformers import InternVLConfig, InternVLVisionConfig, InternVLVisionModel
from transformers.initialization import no_init_weights
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

from gkdplan.runtime.vision.pixels import Pixels
from gkdplan.vision import InternVision


class InternTower(nn.Module):  # type: ignore[misc]
    """InternViT and InternVL's projector, allocated but not set."""

    def __init__(self, shape: InternVision, dtype: torch.dtype) -> None:
        super().__init__()
        vision = InternVLVisionConfig(
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=shape.ffn_hidden_size,
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            hidden_act=shape.activation,
            layer_norm_eps=shape.norm_eps,
            attention_bias=shape.qkv_bias,
            use_qk_norm=shape.qk_norm,
            norm_type="rms_norm" if shape.rms_norms else "layer_norm",
            use_mean_pooling=not shape.final_norm,
        )
        config = InternVLConfig(
            vision_config=vision,
            text_config={
                "model_type": "qwen2",
                "hidden_size": shape.output_size,
                "num_attention_heads": 1,
            },
            downsample_ratio=1 / shape.merge_size,
        )
        with no_init_weights():
            self.vision_tower = InternVLVisionModel(vision)
            self.multi_modal_projector = InternVLMultiModalProjector(config)
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        self._merge_size = shape.merge_size

    def forward(self, pixels: Pixels) -> tuple[Tensor, ...]:
        """The features of all tiles, whose `values` are [T, 3, P, P], one after the other:
        [F, H]."""
        tower = self.vision_tower
        pixels_T3PP = pixels.values.to(tower.embeddings.cls_token.dtype)
        states_TSSC = _square(tower(pixels_T3PP).last_hidden_state[:, 1:])
        return (self.multi_modal_projector(_joined(states_TSSC, self._merge_size)).flatten(0, 1),)


def _square(states: Tensor) -> Tensor:
    """[T, S, S, C] of the states of patches, row by row."""
    side = round(states.size(1) ** 0.5)
    return states.unflatten(1, (side, side))


def _joined(states_TSSC: Tensor, merge_size: int) -> Tensor:
    """M x M neighbours as one state, row by row: [T, (S / M)^2, M M C] (the pixel unshuffle of Shi
    et al., arXiv 1609.05158, backwards)."""
    num_tiles, side, _, width = states_TSSC.shape
    rows = states_TSSC.view(
        num_tiles, side // merge_size, merge_size, side // merge_size, merge_size, width
    )
    return rows.transpose(2, 3).reshape(num_tiles, -1, merge_size**2 * width)
