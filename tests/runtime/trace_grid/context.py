"""Rows that are cut over the context axis."""

from trace_grid.models import SMALL_QWEN, SMOL, TINY_DENSE

CONFIGURATIONS = {
    "tiny dense bf16 context 2": {"models": TINY_DENSE, "dtype": "bf16", "context": 2}
    | {"num_micro_batches": 4},
    "smol fp32 context 2": {"models": SMOL, "context": 2, "prompt": 480},
    "qwen2.5 1.5B to 0.5B bf16 tensor 2 context 2": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"tensor": 2, "context": 2, "prompt": 992},
    "smol bf16 context 2 pipeline 2": {"models": SMOL, "dtype": "bf16", "context": 2}
    | {"pipeline": 2, "num_micro_batches": 2, "prompt": 992},
}
