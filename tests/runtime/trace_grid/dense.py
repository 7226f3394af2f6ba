"""Dense models on one process, and over the data and tensor axes."""

from trace_grid.models import BIG_LLAMA, LLAMA, QWEN, QWEN_3, SMALL_QWEN, SMOL

WHOLE_SEQUENCE = "sequence = false"

CONFIGURATIONS = {
    "smol fp32 replicated": {"models": SMOL, "distributed": "false", "completion": 320},
    "smol fp32 data 8": {"models": SMOL, "data": 8, "beta": 1.0},
    "smol fp32 data 8 logits": {"models": SMOL, "data": 8, "payload": "logits"},
    "smol bf16 data 2": {"models": SMOL, "dtype": "bf16", "data": 2, "beta": 0.0},
    "smol bf16 data 2 replicated": {"models": SMOL, "dtype": "bf16", "data": 2}
    | {"distributed": "false", "num_micro_batches": 3},
    "qwen2.5 1.5B to 0.5B bf16": {"models": SMALL_QWEN, "dtype": "bf16", "prompt": 480},
    "qwen2.5 1.5B to 0.5B fp32 tensor 2 replicated": {"models": SMALL_QWEN, "tensor": 2}
    | {"distributed": "false", "prompt": 480},
    "qwen2.5 1.5B to 0.5B fp32 tensor 2 whole sequence": {"models": SMALL_QWEN, "tensor": 2}
    | {"parallel": WHOLE_SEQUENCE, "prompt": 480},
    "qwen2.5 1.5B to 0.5B bf16 tensor 2 data 2 logits": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"tensor": 2, "data": 2, "payload": "logits", "prompt": 480},
    "qwen2.5 7B to 3B bf16 tensor 2 replicated": {"models": QWEN, "dtype": "bf16", "tensor": 2}
    | {"distributed": "false", "prompt": 992},
    "qwen2.5 7B to 3B bf16 tensor 2 data 8": {"models": QWEN, "dtype": "bf16", "tensor": 2}
    | {"data": 8, "beta": 1.0, "prompt": 2016},
    "qwen3 8B to 0.6B bf16 tensor 2 data 2": {"models": QWEN_3, "dtype": "bf16", "tensor": 2}
    | {"data": 2, "prompt": 992},
    "llama 8B to 1B bf16 tensor 4 replicated": {"models": LLAMA, "dtype": "bf16", "tensor": 4}
    | {"distributed": "false", "prompt": 2016},
    "llama 8B to 1B fp32 replicated logits": {"models": LLAMA, "payload": "logits"}
    | {"data": 2, "distributed": "false", "beta": 0.0, "prompt": 992},
    "llama 8B to itself bf16 tensor 4 data 2": {"models": BIG_LLAMA, "dtype": "bf16", "tensor": 4}
    | {"data": 2, "prompt": 8160},
}
