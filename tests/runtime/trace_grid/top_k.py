"""Payloads of the teacher's likeliest ids, and cross-entropy beside the divergence."""

from trace_grid.models import LLAMA, QWEN, SMALL_QWEN, SMOL

TOP_64 = {"payload": "top_k", "distill": "top_k = 64"}
TOP_64_WITH_SFT = {"payload": "top_k", "distill": "top_k = 64\nsft_alpha = 0.5"}
WITH_SFT = {"distill": "sft_alpha = 0.5"}

CONFIGURATIONS = {
    "smol fp32 top 64 with sft": {"models": SMOL, "completion": 320, **TOP_64_WITH_SFT},
    "smol bf16 data 2 top 64": {"models": SMOL, "dtype": "bf16", "data": 2, **TOP_64}
    | {"completion": 320, "num_micro_batches": 3},
    "smol fp32 top 2048": {"models": SMOL, "payload": "top_k", "distill": "top_k = 2048"}
    | {"completion": 320},
    "qwen2.5 1.5B to 0.5B bf16 tensor 2 top 64 with sft": {"models": SMALL_QWEN, "tensor": 2}
    | {"dtype": "bf16", "prompt": 480, "completion": 512, **TOP_64_WITH_SFT},
    "qwen2.5 1.5B to 0.5B fp32 pipeline 2 top 64": {"models": SMALL_QWEN, "pipeline": 2}
    | {"num_micro_batches": 2, "completion": 256, **TOP_64},
    "qwen2.5 7B to 3B bf16 tensor 2 top 64": {"models": QWEN, "dtype": "bf16", "tensor": 2}
    | {"prompt": 992, "completion": 1024, **TOP_64},
    "llama 8B to 1B bf16 tensor 4 top 512": {"models": LLAMA, "dtype": "bf16", "tensor": 4}
    | {"payload": "top_k", "distill": "top_k = 512", "completion": 512, "prompt": 2016},
    "smol fp32 sft": {"models": SMOL, "completion": 320, **WITH_SFT},
    "smol fp32 logits sft": {"models": SMOL, "payload": "logits", **WITH_SFT},
    "qwen2.5 1.5B to 0.5B fp32 tensor 2 sft": {"models": SMALL_QWEN, "tensor": 2}
    | {"prompt": 480, "completion": 256, **WITH_SFT},
}
