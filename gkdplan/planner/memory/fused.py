"""Which operations of a layer run fused, on which device."""

from dataclasses import dataclass, replace

from gkdplan.runplan.layout import Layout
from gkdplan.vocab import Dtype, Kernels


@dataclass(frozen=True, slots=True)
class Fused:
    """Which operations of a layer run fused; a fused one keeps less for the backward."""

    norm: bool
    rope: bool
    swiglu: bool
    dropout: bool = False
    norm_in_projection: bool = False
    """Whether a norm is part of the projection after it, so that Megatron cannot make it again."""
    windows: bool = False
    """Whether attention cuts its scores by a window in one kernel."""
    fp32_context: bool = True
    """Whether attention of float32 gives the context of shared kv heads as the projection after it
    takes it, and not kv head by kv head, which is copied."""

    def dropout_mask_bytes(self, dtype: Dtype) -> int:
        """Of an element: a fused dropout keeps a byte, torch's own a factor."""
        return 1 if self.dropout else dtype.num_bytes


TORCH_ON_CPU = Fused(norm=False, rope=False, swiglu=False)
TORCH_ON_CUDA = Fused(norm=True, rope=False, swiglu=False, dropout=True, fp32_context=False)
TRANSFORMER_ENGINE = replace(
    TORCH_ON_CUDA, norm_in_projection=True, fp32_context=True, windows=True
)
"""Rotary embedding and gated MLP are Megatron's own everywhere, and not fused. On CUDA torch's
RMSNorm and dropout are single kernels too (aten/src/ATen/native/layer_norm.cpp, Dropout.cpp); what
attention keeps there is in runtime/megatron/causal_attention.py."""


def fused_of(layout: Layout) -> Fused:
    """What the layers of both models run fused."""
    if layout.kernels is Kernels.TRANSFORMER_ENGINE:
        return TRANSFORMER_ENGINE
    return TORCH_ON_CPU if layout.backend == "gloo" else TORCH_ON_CUDA
