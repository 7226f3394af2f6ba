"""Pipelines, even and uneven, and pipelines whose stages hold several chunks."""

from trace_grid.models import BIG_LLAMA, LLAMA, QWEN, QWEN_3, SMALL_QWEN, SMOL, TINY_DENSE

UNEVEN = "first_stage_layers = 3\nlast_stage_layers = 6"

CONFIGURATIONS = {
    "tiny dense fp32 pipeline 2 virtual 2": {"models": TINY_DENSE, "pipeline": 2}
    | {"parallel": "virtual_pipeline = 2", "num_micro_batches": 4},
    "smol fp32 pipeline 2": {"models": SMOL, "pipeline": 2, "num_micro_batches": 3},
    "smol bf16 pipeline 3 data 2": {"models": SMOL, "pipeline": 3, "data": 2, "dtype": "bf16"}
    | {"num_micro_batches": 4, "prompt": 480},
    "smol fp32 pipeline 3 uneven": {"models": SMOL, "pipeline": 3, "parallel": UNEVEN}
    | {"num_micro_batches": 3, "prompt": 480},
    "qwen2.5 1.5B to 0.5B bf16 tensor 2 pipeline 2": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"tensor": 2, "pipeline": 2, "num_micro_batches": 2, "prompt": 480},
    "qwen2.5 1.5B to 0.5B fp32 pipeline 2 logits replicated": {"models": SMALL_QWEN}
    | {"pipeline": 2, "payload": "logits", "distributed": "false", "num_micro_batches": 2},
    "qwen2.5 7B to 3B bf16 tensor 2 pipeline 2 data 2": {"models": QWEN, "dtype": "bf16"}
    | {"tensor": 2, "pipeline": 2, "data": 2, "num_micro_batches": 2, "prompt": 2016},
    "qwen3 8B to 0.6B bf16 pipeline 2": {"models": QWEN_3, "dtype": "bf16", "pipeline": 2}
    | {"num_micro_batches": 2, "prompt": 992},
    "llama 8B to 1B bf16 pipeline 4": {"models": LLAMA, "dtype": "bf16", "pipeline": 4}
    | {"num_micro_batches": 4, "prompt": 2016},
    "llama 8B to itself bf16 tensor 2 pipeline 2": {"models": BIG_LLAMA, "dtype": "bf16"}
    | {"tensor": 2, "pipeline": 2, "num_micro_batches": 2, "prompt": 8160},
    "smol bf16 pipeline 3 virtual 5": {"models": SMOL, "dtype": "bf16", "pipeline": 3}
    | {"parallel": "virtual_pipeline = 5", "num_micro_batches": 6, "prompt": 480},
    "qwen2.5 1.5B to 0.5B bf16 pipeline 2 virtual 2": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"pipeline": 2, "parallel": "virtual_pipeline = 2", "num_micro_batches": 4, "prompt": 480},
    "llama 8B to 1B bf16 tensor 2 pipeline 2 virtual 4": {"models": LLAMA, "dtype": "bf16"}
    | {"tensor": 2, "pipeline": 2, "parallel": "virtual_pipeline = 4", "prompt": 2016}
    | {"num_micro_batches": 2},
}
