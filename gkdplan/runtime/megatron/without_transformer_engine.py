"""What megatron-core's recompute of single modules asks of Transformer Engine, where there is none.

megatron/core/tensor_parallel/random.py, CheckpointWithoutOutput, asks also for models without fp8.
"""

import contextlib

from megatron.core.tensor_parallel import random as megatron_random


class NoFp8:
    """No module computes in fp8."""

    @staticmethod
    def is_fp8_enabled() -> bool:
        return False


def install() -> None:
    """Patch this process."""
    megatron_random.FP8GlobalStateManager = NoFp8
    megatron_random.activation_recompute_forward = lambda **_: contextlib.nullcontext()
    megatron_random.fp8_autocast = lambda **_: contextlib.nullcontext()
