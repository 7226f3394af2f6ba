"""Models with experts in some layers and a gated MLP in the others."""

from trace_grid.plan import BLOCK, LORA, SELECTIVE, UNIFORM

BF16 = {"dtype": "bf16"}
TINY = {"models": ("tiny mixed", "tiny mixed")}
FIRST_DENSE = {"models": ("4 of Qwen/Qwen3-30B-A3B dense 0", "4 of Qwen/Qwen3-30B-A3B dense 0")}
LAST_DENSE = {"models": ("4 of Qwen/Qwen3-30B-A3B dense 3", "4 of Qwen/Qwen3-30B-A3B dense 3")}
HALF_DENSE = {"models": ("4 of Qwen/Qwen3-30B-A3B dense 0 1", "4 of Qwen/Qwen3-30B-A3B dense 0 1")}
SHARED = {"models": ("3 of Qwen/Qwen1.5-MoE-A2.7B dense 0", "3 of Qwen/Qwen1.5-MoE-A2.7B dense 0")}
EXPERT_4 = {**BF16, "data": 4, "parallel": "expert = 4", "prompt": 2016}
PIPELINE_2 = {**EXPERT_4, "pipeline": 2, "num_micro_batches": 4}

CONFIGURATIONS = {
    "tiny mixed fp32": {**TINY, "num_micro_batches": 2},
    "tiny mixed pipeline 2": {**TINY, "pipeline": 2, "num_micro_batches": 3},
    "tiny mixed pipeline 2 virtual 2": {**TINY, "pipeline": 2, "num_micro_batches": 4}
    | {"parallel": "virtual_pipeline = 2"},
    "tiny mixed, experts made again": {**TINY, "recompute": SELECTIVE.format('"moe", "mlp"')},
    "tiny mixed lora of all": {**TINY, "tuning": LORA.format("rank = 16")},
    "qwen3 30B-A3B first dense expert 4": {**FIRST_DENSE, **EXPERT_4},
    "qwen3 30B-A3B last dense expert 4": {**LAST_DENSE, **EXPERT_4},
    "qwen3 30B-A3B first dense tensor 2 expert 4": {**FIRST_DENSE, **EXPERT_4, "tensor": 2},
    "qwen3 30B-A3B half dense pipeline 2 expert 4": {**HALF_DENSE, **PIPELINE_2},
    "qwen3 30B-A3B last dense pipeline 2 expert 4": {**LAST_DENSE, **PIPELINE_2},
    "qwen3 30B-A3B first dense pipeline 2 virtual 2": {**FIRST_DENSE, **PIPELINE_2}
    | {"parallel": "expert = 4\nvirtual_pipeline = 2"},
    "qwen3 30B-A3B first dense uniform 1": {**FIRST_DENSE, **EXPERT_4}
    | {"recompute": UNIFORM.format(1)},
    "qwen3 30B-A3B last dense uniform 1": {**LAST_DENSE, **EXPERT_4}
    | {"recompute": UNIFORM.format(1)},
    "qwen3 30B-A3B last dense uniform 2": {**LAST_DENSE, **EXPERT_4}
    | {"recompute": UNIFORM.format(2)},
    "qwen3 30B-A3B last dense block 2": {**LAST_DENSE, **EXPERT_4} | {"recompute": BLOCK.format(2)},
    "qwen3 30B-A3B last dense moe": {**LAST_DENSE, **EXPERT_4}
    | {"recompute": SELECTIVE.format('"moe"')},
    "qwen3 30B-A3B last dense mlp and layernorm": {**LAST_DENSE, **EXPERT_4}
    | {"recompute": SELECTIVE.format('"mlp", "layernorm"')},
    "qwen3 30B-A3B half dense lora of all": {**HALF_DENSE, **EXPERT_4}
    | {"tuning": LORA.format("rank = 16")},
    "qwen3 30B-A3B half dense pipeline 2 lora of all": {**HALF_DENSE, **PIPELINE_2}
    | {"tuning": LORA.format("rank = 16")},
    "qwen1.5 A2.7B first dense tensor 2 expert 4": {**SHARED, **EXPERT_4, "tensor": 2},
}
