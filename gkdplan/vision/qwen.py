"""Qwen2.5-VL's eyes, which look inside windows."""

from dataclasses import dataclass

from gkdplan.vision.patched import TOWER, PatchedVision
from gkdplan.vision.tensors import Shapes, linear


@dataclass(frozen=True, slots=True)
class QwenVision(PatchedVision):
    """The vision transformer of Qwen2.5-VL (Bai et al., arXiv 2502.13923) with its merger.

    Layers look inside windows of `window_size` pixels, those of `full_layers` at all of the image.
    """

    window_size: int
    full_layers: tuple[int, ...]

    def tensors(self) -> Shapes:
        """Names and shapes, in the order of the modules' parameters."""
        hidden, patch, ffn = self.hidden_size, self.patch_size, self.ffn_hidden_size
        tensors: Shapes = {
            "patch_embed.proj.weight": (hidden, 3, self.temporal_patch_size, patch, patch)
        }
        for index in range(self.num_layers):
            prefix = f"blocks.{index}"
            tensors |= {f"{prefix}.norm{number}.weight": (hidden,) for number in (1, 2)}
            tensors |= linear(f"{prefix}.attn.qkv", hidden, 3 * hidden)
            tensors |= linear(f"{prefix}.attn.proj", hidden, hidden)
            for name in ("gate", "up"):
                tensors |= linear(f"{prefix}.mlp.{name}_proj", hidden, ffn)
            tensors |= linear(f"{prefix}.mlp.down_proj", ffn, hidden)
        merged = hidden * self.merge_size**2
        tensors["merger.ln_q.weight"] = (hidden,)
        tensors |= linear("merger.mlp.0", merged, merged)
        tensors |= linear("merger.mlp.2", merged, self.output_size)
        return {TOWER + name: size for name, size in tensors.items()}
