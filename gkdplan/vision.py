"""The eyes of a vision-language model as numbers: its tower and the projector to its decoder.

A vision-language model is the decoder of a `ModelShape`, whose `vision` is one of these. Tensors
are named as transformers 5 writes them; the decoder's own are named as if it stood alone, and
`canonical_name` and `name_on_disk` translate.
"""

from dataclasses import dataclass
from math import prod

TOWER, PROJECTOR = "vision_tower.", "multi_modal_projector."
_DECODER = "language_model."
_EARLIER_TOWER = "vision_tower.vision_model."
"""Checkpoints of transformers 4 wrap CLIP's tensors once more."""

Shapes = dict[str, tuple[int, ...]]


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

    @property
    def num_states(self) -> int:
        """Of an image inside the tower: a patch each, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def tokens_per_image(self) -> int:
        """What an image takes of the decoder's sequence."""
        return self.num_states if self.with_class_token else self.num_states - 1

    @property
    def pixels_per_image(self) -> int:
        """Numbers that go into the tower."""
        return 3 * self.image_size**2

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
            **_norm("pre_layrnorm", hidden),
        }
        for index in range(self.num_layers):
            prefix = f"encoder.layers.{index}"
            for name in ("k", "v", "q", "out"):
                tensors |= _linear(f"{prefix}.self_attn.{name}_proj", hidden, hidden)
            tensors |= _norm(f"{prefix}.layer_norm1", hidden)
            tensors |= _linear(f"{prefix}.mlp.fc1", hidden, self.ffn_hidden_size)
            tensors |= _linear(f"{prefix}.mlp.fc2", self.ffn_hidden_size, hidden)
            tensors |= _norm(f"{prefix}.layer_norm2", hidden)
        tensors |= _norm("post_layernorm", hidden)
        return {TOWER + name: size for name, size in tensors.items()}

    def _projector(self) -> Shapes:
        tensors = _linear("linear_1", self.hidden_size, self.output_size)
        tensors |= _linear("linear_2", self.output_size, self.output_size)
        return {
            PROJECTOR + name: size
            for name, size in tensors.items()
            if self.projector_bias or not name.endswith("bias")
        }


VisionShape = ClipVision


def canonical_name(vision: VisionShape | None, name: str) -> str:
    """The name in this project of a tensor of a checkpoint's file."""
    if vision is None:
        return name
    if name.startswith(_EARLIER_TOWER):
        return TOWER + name.removeprefix(_EARLIER_TOWER)
    return name.removeprefix(_DECODER)


def name_on_disk(vision: VisionShape | None, name: str) -> str:
    """The name that transformers gives the tensor in a file."""
    if vision is None or is_of_vision(name):
        return name
    return _DECODER + name


def is_of_vision(name: str) -> bool:
    """Whether a tensor is the tower's or the projector's."""
    return name.startswith((TOWER, PROJECTOR))


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
