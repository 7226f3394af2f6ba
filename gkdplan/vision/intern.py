"""InternVL's eyes: an image is cut into tiles, and a thumbnail of all of it comes last."""

from dataclasses import dataclass
from typing import ClassVar

from gkdplan.vision.tensors import Shapes, linear, norm
from gkdplan.vision.tiled import PROJECTOR, TOWER, TiledVision


@dataclass(frozen=True, slots=True)
class InternVision(TiledVision):
    """InternViT with InternVL's projector (Chen et al., "How Far Are We to GPT-4V?", arXiv
    2404.16821, section 3).

    An image is cut into as many tiles as its proportions ask for, within the limits of the image
    processor. `merge_size` x `merge_size` states of neighbours are joined to one token, normed and
    taken to `output_size` features by two linear layers with a GELU between them. Queries, keys and
    values have a bias where `qkv_bias`, and queries and keys an RMSNorm over all heads where
    `qk_norm`; layers' norms are RMSNorms where `rms_norms`, else layer norms. The last states are
    normed where `final_norm`.
    """

    merge_size: int
    qkv_bias: bool
    qk_norm: bool
    rms_norms: bool
    final_norm: bool

    has_marks: ClassVar[bool] = True

    @property
    def tokens_per_tile(self) -> int:
        """What a tile takes of the decoder's sequence."""
        return (self.num_states - 1) // self.merge_size**2

    @property
    def merged_size(self) -> int:
        """Width of the states that the projector takes."""
        return self.hidden_size * self.merge_size**2

    def most_tokens(self, num_images: int, num_tokens: int) -> int:
        """What `num_images` take of a sequence at most that has room for `num_tokens`: an image may
        fill it with tiles."""
        return num_tokens // self.tokens_per_tile * self.tokens_per_tile if num_images else 0

    @property
    def as_cut(self) -> dict[str, int]:
        """What a sequence of both models needs the other to have as well, by its name."""
        return {
            "tokens a tile of an image": self.tokens_per_tile,
            "pixels a side of a tile": self.image_size,
            "as the id of the image token": self.image_token_id,
        }

    def tensors(self) -> Shapes:
        """Names and shapes, in the order of the modules' parameters."""
        return self._tower() | self._projector()

    def _tower(self) -> Shapes:
        hidden, patch, ffn = self.hidden_size, self.patch_size, self.ffn_hidden_size
        tensors: Shapes = {
            "embeddings.cls_token": (1, 1, hidden),
            "embeddings.position_embeddings": (1, self.num_states, hidden),
            "embeddings.patch_embeddings.projection.weight": (hidden, 3, patch, patch),
            "embeddings.patch_embeddings.projection.bias": (hidden,),
        }
        for index in range(self.num_layers):
            prefix = f"encoder.layer.{index}"
            tensors |= {f"{prefix}.lambda_{number}": (hidden,) for number in (1, 2)}
            tensors |= self._attention(f"{prefix}.attention")
            tensors |= linear(f"{prefix}.mlp.fc1", hidden, ffn)
            tensors |= linear(f"{prefix}.mlp.fc2", ffn, hidden)
            for place in ("before", "after"):
                tensors |= self._norm(f"{prefix}.layernorm_{place}")
        if self.final_norm:
            tensors |= norm("layernorm", hidden)
        return {TOWER + name: size for name, size in tensors.items()}

    def _attention(self, prefix: str) -> Shapes:
        hidden = self.hidden_size
        tensors: Shapes = {}
        for name in "qkv":
            projection = linear(f"{prefix}.{name}_proj", hidden, hidden)
            if not self.qkv_bias:
                del projection[f"{prefix}.{name}_proj.bias"]
            tensors |= projection
        tensors |= linear(f"{prefix}.projection_layer", hidden, hidden)
        if self.qk_norm:
            tensors |= {f"{prefix}.{name}_norm.weight": (hidden,) for name in "qk"}
        return tensors

    def _norm(self, name: str) -> Shapes:
        hidden = self.hidden_size
        return {f"{name}.weight": (hidden,)} if self.rms_norms else norm(name, hidden)

    def _projector(self) -> Shapes:
        tensors = norm("layer_norm", self.merged_size)
        tensors |= linear("linear_1", self.merged_size, self.output_size)
        tensors |= linear("linear_2", self.output_size, self.output_size)
        return {PROJECTOR + name: size for name, size in tensors.items()}
