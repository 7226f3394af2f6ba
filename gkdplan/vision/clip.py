"""CLIP's eyes, as LLaVA has them: every image is one tile."""

from dataclasses import dataclass

from gkdplan.vision.tensors import Shapes, linear, norm
from gkdplan.vision.tiled import PROJECTOR, TOWER, TiledVision

_EARLIER_TOWER = "vision_tower.vision_model."
"""Checkpoints of transformers 4 wrap CLIP's tensors once more."""


@dataclass(frozen=True, slots=True)
class ClipVision(TiledVision):
    """CLIP's vision transformer (Radford et al., arXiv 2103.00020) with the two linear layers of
    LLaVA (Liu et al., arXiv 2310.03744).

    An image is resized and cut to a tile. The projector, with `projector_bias` and a GELU between
    its layers, takes the states before layer `feature_layer` of the tower (negative: counted from
    the end, -1 the last output), that of the class token among them where `with_class_token`, to
    `output_size` features.
    """

    feature_layer: int
    with_class_token: bool
    projector_bias: bool

    @property
    def tokens_per_tile(self) -> int:
        """What an image takes of the decoder's sequence."""
        return self.num_states if self.with_class_token else self.num_states - 1

    @property
    def num_read_layers(self) -> int:
        """Those before the states that the projector takes."""
        return self.feature_layer % (self.num_layers + 1)

    def is_read(self, name: str) -> bool:
        """Whether the features of an image depend on the tensor: not the layers past the one whose
        states are taken, nor the norm after all of them."""
        unread = range(self.num_read_layers, self.num_layers)
        layers = tuple(f"{TOWER}encoder.layers.{index}." for index in unread)
        return not name.startswith((f"{TOWER}post_layernorm.", *layers))

    def most_tokens(self, num_images: int, num_tokens: int) -> int:
        """What `num_images` take of a sequence at most that has room for `num_tokens`."""
        return min(num_images, num_tokens // self.tokens_per_tile) * self.tokens_per_tile

    @property
    def as_cut(self) -> dict[str, int]:
        """What a sequence of both models needs the other to have as well, by its name."""
        return {
            "tokens an image": self.tokens_per_tile,
            "pixels a side of an image": self.image_size,
            "as the id of the image token": self.image_token_id,
        }

    def tensors(self) -> Shapes:
        """Names and shapes, in the order of the modules' parameters."""
        return self._tower() | self._projector()

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
        return TiledVision.canonical_name(name)

    @classmethod
    def earlier_name_on_disk(cls, name: str) -> str:
        """As transformers 4 wrote it."""
        if name.startswith(TOWER):
            return _EARLIER_TOWER + name.removeprefix(TOWER)
        return TiledVision.name_on_disk(name)
