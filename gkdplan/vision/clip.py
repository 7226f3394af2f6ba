"""CLIP's eyes, as LLaVA has them: every image is of one size and takes as many tokens."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from gkdplan.vision.tensors import Shapes, linear, norm

TOWER, PROJECTOR = "vision_tower.", "multi_modal_projector."
_DECODER = "language_model."
_EARLIER_TOWER = "vision_tower.vision_model."
"""Checkpoints of transformers 4 wrap CLIP's tensors once more."""


@dataclass(frozen=True, slots=True)
class ClipVision:
    """CLIP's vision transformer (Radford et al., arXiv 2103.00020) with the two linear layers of
    LLaVA (Liu et al., arXiv 2310.03744).

    An image is resized and cut to `image_size` pixels a side: every image has as many tokens. The
    projector, with `projector_bias` and a GELU between its layers, takes the states before layer
    `feature_layer` of the tower (negative: counted from the end, -1 the last output), that of the
    class token among them where `with_class_token`, to `output_size` features.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_hidden_size: int
    image_size: int
    patch_size: int
    activation: str
    norm_eps: float
    feature_layer: int
    with_class_token: bool
    projector_bias: bool
    output_size: int
    image_token_id: int

    prefixes: ClassVar[tuple[str, ...]] = (TOWER, PROJECTOR)
    """How the names of tensors begin that are not the decoder's."""
    projector: ClassVar[str] = PROJECTOR
    """How those of the projector begin."""
    num_position_axes: ClassVar[int] = 1
    """Numbers that say where a token stands."""

    @property
    def num_states(self) -> int:
        """Of an image inside the tower: a patch each, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def tokens_per_image(self) -> int:
        """What an image takes of the decoder's sequence."""
        return self.num_states if self.with_class_token else self.num_states - 1

    def most_tokens(self, num_images: int, num_tokens: int) -> int:
        """What `num_images` take of a sequence at most that has room for `num_tokens`."""
        return min(num_images, num_tokens // self.tokens_per_image) * self.tokens_per_image

    def num_pixels(self, num_tokens: int) -> int:
        """Numbers that go into the tower for so many tokens of images."""
        return num_tokens // self.tokens_per_image * 3 * self.image_size**2

    def num_states_of(self, num_tokens: int) -> int:
        """States in the tower for so many tokens of images."""
        return num_tokens // self.tokens_per_image * self.num_states

    @property
    def as_cut(self) -> dict[str, int]:
        """What a sequence of both models needs the other to have as well, by its name."""
        return {
            "tokens an image": self.tokens_per_image,
            "pixels a side of an image": self.image_size,
            "as the id of the image token": self.image_token_id,
        }

    def tensors(self) -> Shapes:
        """Names and shapes, in the order of the modules' parameters."""
        return self._tower() | self._projector()

    @property
    def num_parameters(self) -> int:
        return sum(map(prod, self.tensors().values()))

    def _tower(self) -> Shapes:
        hidden, patch = self.hidden_size, self.patch_size
        tensors: Shapes = {
            "embeddings.class_embedding": (hidden,),
            "embeddings.patch_embedding.weight": (hidden, 3, patch, patch),
            "embeddings.position_embedding.weight": (self.num_states, hidden),
            **norm("pre_layrnorm", hidden),
        }
        for index in range(self.num_layers):
            prefix = f"encoder.layers.{index}"
            for name in ("k", "v", "q", "out"):
                tensors |= linear(f"{prefix}.self_attn.{name}_proj", hidden, hidden)
            tensors |= norm(f"{prefix}.layer_norm1", hidden)
            tensors |= linear(f"{prefix}.mlp.fc1", hidden, self.ffn_hidden_size)
            tensors |= linear(f"{prefix}.mlp.fc2", self.ffn_hidden_size, hidden)
            tensors |= norm(f"{prefix}.layer_norm2", hidden)
        tensors |= norm("post_layernorm", hidden)
        return {TOWER + name: size for name, size in tensors.items()}

    def _projector(self) -> Shapes:
        tensors = linear("linear_1", self.hidden_size, self.output_size)
        tensors |= linear("linear_2", self.output_size, self.output_size)
        return {
            PROJECTOR + name: size
            for name, size in tensors.items()
            if self.projector_bias or not name.endswith("bias")
        }

    @classmethod
    def canonical_name(cls, name: str) -> str:
        """Of a name in a checkpoint's file."""
        if name.startswith(_EARLIER_TOWER):
            return TOWER + name.removeprefix(_EARLIER_TOWER)
        return name.removeprefix(_DECODER)

    @classmethod
    def name_on_disk(cls, name: str) -> str:
        """Of a name in this project."""
        return name if name.startswith(cls.prefixes) else _DECODER + name
