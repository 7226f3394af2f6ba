"""Low-rank adapters on Megatron's linear layers, whose own weights are frozen."""

from gkdplan.runtime.megatron.lora.experts import WHOLE
from gkdplan.runtime.megatron.lora.placing import (
    ADAPTER,
    OF_LATENTS,
    adapters_off,
    add_adapters,
    is_adapter,
    let_gradients_pass,
)

__all__ = [
    "ADAPTER",
    "OF_LATENTS",
    "WHOLE",
    "adapters_off",
    "add_adapters",
    "is_adapter",
    "let_gradients_pass",
]
