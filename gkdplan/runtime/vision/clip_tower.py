"""CLIP's tower and LLaVA's projector, as modules of transformers.

Legend: I images, P pixels a side, N tokens of an image, H features of the decoder.
"""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaConfig
from transformers.initialization import no_init_weights
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from gkdplan.runtime.vision.pixels import Pixels
from gkdplan.vision import ClipVision


class ClipTower(nn.Module):  # type: ignore[misc]
    """CLIP's vision transformer and LLaVA's projector, allocated but not set."""

    def __init__(self, shape: ClipVision, dtype: torch.dtype) -> None:
        super().__init__()
        vision = CLIPVisionConfig(
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=shape.ffn_hidden_size,
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            hidden_act=shape.activation,
            layer_norm_eps=shape.norm_eps,
        )
        config = LlavaConfig(
            vision_config=vision,
            text_config={
                "model_type": "llama",
                "hidden_size": shape.output_size,
                "num_attention_heads": 1,
            },
            multimodal_projector_bias=shape.projector_bias,
        )
        with no_init_weights():
            self.vision_tower = CLIPVisionModel(vision)
            self.multi_modal_projector = LlavaMultiModalProjector(config)
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        self._num_layers = shape.num_read_layers
        self._first_token = 0 if shape.with_class_token else 1

    def forward(self, pixels: Pixels) -> tuple[Tensor, ...]:
        """The features of all images, whose `values` are [I, 3, P, P], one after the other:
        [I * N, H].

        Layers past the one whose states are taken do not run.
        """
        tower = self.vision_tower
        pixels_I3PP = pixels.values.to(tower.embeddings.class_embedding.dtype)
        states = tower.pre_layrnorm(tower.embeddings(pixels_I3PP))
        for layer in tower.encoder.layers[: self._num_layers]:
            states = layer(states, attention_mask=None)
        return (self.multi_modal_projector(states[:, self._first_token :]).flatten(0, 1),)
