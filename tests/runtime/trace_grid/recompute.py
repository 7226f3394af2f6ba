"""Activations that are made again: whole layers, and parts of them."""

from trace_grid.models import BIG_LLAMA, LLAMA, SMALL_QWEN, SMOL
from trace_grid.plan import BLOCK, SELECTIVE, UNIFORM

CONFIGURATIONS = {
    "smol fp32 uniform 2": {"models": SMOL, "recompute": UNIFORM.format(2), "prompt": 992},
    "smol bf16 pipeline 2 block 10": {"models": SMOL, "dtype": "bf16", "pipeline": 2}
    | {"recompute": BLOCK.format(10), "num_micro_batches": 2, "prompt": 992},
    "smol bf16 pipeline 2 uniform 5": {"models": SMOL, "dtype": "bf16", "pipeline": 2}
    | {"recompute": UNIFORM.format(5), "num_micro_batches": 2, "prompt": 992},
    "qwen2.5 1.5B to 0.5B bf16 tensor 2 core attention": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"tensor": 2, "recompute": SELECTIVE.format('"core_attn"'), "prompt": 992},
    "qwen2.5 1.5B to 0.5B bf16 tensor 2 mlp": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"tensor": 2, "recompute": SELECTIVE.format('"mlp"'), "prompt": 992},
    "qwen2.5 1.5B to 0.5B bf16 layernorm and mlp": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"recompute": SELECTIVE.format('"layernorm", "mlp"'), "prompt": 992},
    "llama 8B to 1B bf16 tensor 2 uniform 1": {"models": LLAMA, "dtype": "bf16", "tensor": 2}
    | {"recompute": UNIFORM.format(1), "prompt": 8160},
    "llama 8B to itself bf16 tensor 4 block 16": {"models": BIG_LLAMA, "dtype": "bf16"}
    | {"tensor": 4, "recompute": BLOCK.format(16), "prompt": 8160},
}
