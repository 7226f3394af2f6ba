"""The eyes of a vision-language model as numbers: its tower and the projector to its decoder.

A vision-language model is the decoder of a `ModelShape`, whose `vision` is one of these. Tensors
are named as transformers 5 writes them; the decoder's own are named as if it stood alone, and
`canonical_name` and `name_on_disk` translate.
"""

from dataclasses import dataclass
from math import prod

TOWER, PROJECTOR = "vision_tower.", "multi_modal_projector."
QWEN_TOWER = "visual."
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


@dataclass(frozen=True, slots=True)
class QwenVision:
    """The vision transformer of Qwen2.5-VL (Bai et al., arXiv 2502.13923) with its merger.

    An image keeps its proportions: it is cut into patches of `patch_size` pixels a side over
    `temporal_patch_size` frames, and `merge_size` x `merge_size` of them become one token of the
    decoder. Layers look inside windows of `window_size` pixels, those of `full_layers` at all of
    the image. The decoder turns the first coordinates of a head by the time of a token, the next
    by its row and the last by its column: `rotary_sections` pairs of each.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    full_layers: tuple[int, ...]
    output_size: int
    rotary_sections: tuple[int, ...]
    image_token_id: int

    def tensors(self) -> Shapes:
        """Names and shapes, in the order of the modules' parameters."""
        hidden, patch, ffn = self.hidden_size, self.patch_size, self.ffn_hidden_size
        tensors: Shapes = {
            "patch_embed.proj.weight": (hidden, 3, self.temporal_patch_size, patch, patch)
        }
        for index in range(self.num_layers):
            prefix = f"blocks.{index}"
            tensors |= {f"{prefix}.norm{number}.weight": (hidden,) for number in (1, 2)}
            tensors |= _linear(f"{prefix}.attn.qkv", hidden, 3 * hidden)
            tensors |= _linear(f"{prefix}.attn.proj", hidden, hidden)
            for name in ("gate", "up"):
                tensors |= _linear(f"{prefix}.mlp.{name}_proj", hidden, ffn)
            tensors |= _linear(f"{prefix}.mlp.down_proj", ffn, hidden)
        merged = hidden * self.merge_size**2
        tensors["merger.ln_q.weight"] = (hidden,)
        tensors |= _linear("merger.mlp.0", merged, merged)
        tensors |= _linear("merger.mlp.2", merged, self.output_size)
        return {QWEN_TOWER + name: size for name, size in tensors.items()}

    @property
    def num_parameters(self) -> int:
        return sum(map(prod, self.tensors().values()))


VisionShape = ClipVision | QwenVision


def priced(vision: VisionShape | None) -> ClipVision | None:
    """The vision as this version prices and runs it; a plan with another was refused (GK590)."""
    assert vision is None or isinstance(vision, ClipVision), f"no code for {type(vision).__name__}"
    return vision


def canonical_name(vision: VisionShape | None, name: str) -> str:
    """The name in this project of a tensor of a checkpoint's file."""
    if not isinstance(vision, ClipVision):
        return name
    if name.startswith(_EARLIER_TOWER):
        return TOWER + name.removeprefix(_EARLIER_TOWER)
    return name.removeprefix(_DECODER)


def name_on_disk(vision: VisionShape | None, name: str) -> str:
    """The name that transformers gives the tensor in a file."""
    if not isinstance(vision, ClipVision) or is_of_vision(name):
        return name
    return _DECODER + name


def is_of_vision(name: str) -> bool:
    """Whether a tensor is the tower's or the projector's."""
    return name.startswith((TOWER, PROJECTOR, QWEN_TOWER))


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
