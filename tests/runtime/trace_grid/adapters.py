"""Students of which adapters are trained."""

from trace_grid.models import QWEN, SMALL_QWEN, SMOL
from trace_grid.plan import BLOCK, LORA, SELECTIVE, UNIFORM

CONFIGURATIONS = {
    "smol fp32 lora": {"models": SMOL, "tuning": LORA.format("rank = 16")},
    "smol fp32 lora dropout replicated": {"models": SMOL, "distributed": "false"}
    | {"tuning": LORA.format("rank = 16\ndropout = 0.05"), "completion": 320},
    "smol fp32 lora data 2 logits": {"models": SMOL, "tuning": LORA.format("rank = 8")}
    | {"data": 2, "payload": "logits"},
    "smol bf16 lora, 3 micro-batches": {"models": SMOL, "dtype": "bf16", "num_micro_batches": 3}
    | {"tuning": LORA.format("rank = 8"), "prompt": 992, "completion": 1024},
    "smol bf16 lora data 2": {"models": SMOL, "dtype": "bf16", "data": 2}
    | {"tuning": LORA.format("rank = 8")},
    "smol bf16 lora of q and v replicated": {"models": SMOL, "dtype": "bf16"}
    | {"tuning": LORA.format('targets = ["q_proj", "v_proj"]'), "distributed": "false"}
    | {"prompt": 992},
    "smol bf16 lora of down, dropout": {"models": SMOL, "dtype": "bf16", "prompt": 4000}
    | {"tuning": LORA.format('targets = ["down_proj"]\nrank = 64\ndropout = 0.1')},
    "smol fp32 lora pipeline 2": {"models": SMOL, "tuning": LORA.format("rank = 8")}
    | {"pipeline": 2, "num_micro_batches": 4},
    "smol bf16 lora pipeline 2": {"models": SMOL, "dtype": "bf16", "pipeline": 2}
    | {"tuning": LORA.format("rank = 8"), "num_micro_batches": 4, "prompt": 992},
    "smol fp32 lora uniform 3": {"models": SMOL, "tuning": LORA.format("rank = 32")}
    | {"recompute": UNIFORM.format(3), "prompt": 480},
    "smol bf16 lora block 10": {"models": SMOL, "dtype": "bf16", "prompt": 480}
    | {"tuning": LORA.format("rank = 32"), "recompute": BLOCK.format(10)},
    "smol fp32 lora mlp and layernorm, dropout": {"models": SMOL, "prompt": 480}
    | {"tuning": LORA.format("dropout = 0.1"), "recompute": SELECTIVE.format('"mlp", "layernorm"')},
    "qwen2.5 1.5B to 0.5B fp32 lora tensor 2 replicated": {"models": SMALL_QWEN, "tensor": 2}
    | {"tuning": LORA.format("rank = 8"), "distributed": "false", "prompt": 480},
    "qwen2.5 7B to 3B fp32 lora data 2": {"models": QWEN, "data": 2, "prompt": 992}
    | {"tuning": LORA.format("rank = 32")},
    "qwen2.5 7B to 3B bf16 lora tensor 2": {"models": QWEN, "dtype": "bf16", "tensor": 2}
    | {"tuning": LORA.format("rank = 8"), "prompt": 992},
    "qwen2.5 7B to 3B bf16 lora tensor 2 data 2 dropout replicated": {"models": QWEN}
    | {"dtype": "bf16", "tensor": 2, "data": 2, "distributed": "false", "prompt": 8160}
    | {"tuning": LORA.format("rank = 64\ndropout = 0.05")},
}
