"""Qwen3-VL's eyes, whose inner layers speak to the first layers of the decoder."""

from dataclasses import dataclass
from typing import ClassVar

from gkdplan.vision.patched import TOWER, PatchedVision
from gkdplan.vision.tensors import Shapes, linear, norm

_VISUAL, _DECODER = f"model.{TOWER}", "model.language_model."


@dataclass(frozen=True, slots=True)
class Qwen3Vision(PatchedVision):
    """The vision transformer of Qwen3-VL (Bai et al., arXiv 2511.21631) with its mergers.

    A patch has one of `num_positions` learnt positions, a square, between which an image's are
    interpolated. What layer `deep_layers[i]` gives is merged too and added to the decoder's states
    of the image after its layer i (Meng et al., "DeepStack", arXiv 2406.04334).
    """

    num_positions: int
    deep_layers: tuple[int, ...]

    projector: ClassVar[tuple[str, ...]] = ("visual.merger.", "visual.deepstack_merger_list.")
    has_interleaved_sections: ClassVar[bool] = True

    def tensors(self) -> Shapes:
        """Names and shapes, in the order of the modules' parameters."""
        hidden, patch, ffn = self.hidden_size, self.patch_size, self.ffn_hidden_size
        tensors: Shapes = {
            "patch_embed.proj.weight": (hidden, 3, self.temporal_patch_size, patch, patch),
            "patch_embed.proj.bias": (hidden,),
            "pos_embed.weight": (self.num_positions, hidden),
        }
        for index in range(self.num_layers):
            prefix = f"blocks.{index}"
            for number in (1, 2):
                tensors |= norm(f"{prefix}.norm{number}", hidden)
            tensors |= linear(f"{prefix}.attn.qkv", hidden, 3 * hidden)
            tensors |= linear(f"{prefix}.attn.proj", hidden, hidden)
            tensors |= linear(f"{prefix}.mlp.linear_fc1", hidden, ffn)
            tensors |= linear(f"{prefix}.mlp.linear_fc2", ffn, hidden)
        merged = hidden * self.patches_per_token
        tensors |= self._merger("merger", hidden)
        for index in range(len(self.deep_layers)):
            tensors |= self._merger(f"deepstack_merger_list.{index}", merged)
        return {TOWER + name: size for name, size in tensors.items()}

    def _merger(self, prefix: str, normed: int) -> Shapes:
        merged = self.hidden_size * self.patches_per_token
        return {
            **norm(f"{prefix}.norm", normed),
            **linear(f"{prefix}.linear_fc1", merged, merged),
            **linear(f"{prefix}.linear_fc2", merged, self.output_size),
        }

    @classmethod
    def canonical_name(cls, name: str) -> str:
        """Of a name in a checkpoint's file."""
        for on_disk, canonical in ((_VISUAL, TOWER), (_DECODER, "model.")):
            if name.startswith(on_disk):
                return canonical + name.removeprefix(on_disk)
        return name

    @classmethod
    def name_on_disk(cls, name: str) -> str:
        """Of a name in this project."""
        if name.startswith(TOWER):
            return f"model.{name}"
        is_of_decoder = name.startswith("model.")
        return _DECODER + name.removeprefix("model.") if is_of_decoder else name
