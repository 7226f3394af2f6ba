"""Models with experts over pipelines and contexts, with recompute, and with adapters."""

from trace_grid.models import MIXTRAL_4, QWEN_1_5_MOE, QWEN_3_MOE, QWEN_3_MOE_4, TINY_MOE
from trace_grid.plan import BLOCK, LORA, SELECTIVE, UNIFORM

LORA_OF_ATTENTION = LORA.format('targets = ["q_proj", "k_proj", "v_proj", "o_proj"]\nrank = 16')
BF16 = {"dtype": "bf16"}
MIXTRAL = {"models": MIXTRAL_4, **BF16, "prompt": 8160}
QWEN_1_5 = {"models": QWEN_1_5_MOE, **BF16, "prompt": 8160}
QWEN_3 = {"models": QWEN_3_MOE_4, **BF16, "prompt": 8160}
SHALLOW_QWEN_3 = {"models": QWEN_3_MOE, **BF16, "prompt": 8160}

CONFIGURATIONS = {
    # pipelines
    "tiny experts fp32 pipeline 2": {"models": TINY_MOE, "pipeline": 2, "num_micro_batches": 3},
    "mixtral 8x7B pipeline 2 expert 4": {**MIXTRAL, "pipeline": 2, "data": 4}
    | {"parallel": "expert = 4", "num_micro_batches": 2},
    "mixtral 8x7B pipeline 2 virtual 2 expert 8": {**MIXTRAL, "pipeline": 2, "data": 8}
    | {"parallel": "virtual_pipeline = 2\nexpert = 8", "num_micro_batches": 4, "prompt": 2016},
    "qwen3 30B-A3B tensor 2 pipeline 2 expert 8": {**QWEN_3, "tensor": 2, "pipeline": 2}
    | {"data": 4, "parallel": "expert = 8", "num_micro_batches": 4},
    # contexts
    "mixtral 8x7B context 2 expert 4": {**MIXTRAL, "context": 2, "data": 2}
    | {"parallel": "expert = 4"},
    "qwen3 30B-A3B tensor 2 context 2 expert 8": {**SHALLOW_QWEN_3, "tensor": 2, "context": 2}
    | {"data": 2, "parallel": "expert = 8"},
    "mixtral 8x7B context 2 pipeline 2 expert 4": {**MIXTRAL, "context": 2, "pipeline": 2}
    | {"data": 2, "parallel": "expert = 4", "num_micro_batches": 2},
    # recompute
    "mixtral 8x7B expert 8 uniform 1": {**MIXTRAL, "data": 8, "parallel": "expert = 8"}
    | {"recompute": UNIFORM.format(1)},
    "mixtral 8x7B pipeline 2 expert 4 block 1": {**MIXTRAL, "pipeline": 2, "data": 4}
    | {"parallel": "expert = 4", "recompute": BLOCK.format(1), "num_micro_batches": 2},
    "mixtral 8x7B expert 4 layernorm": {**MIXTRAL, "data": 4, "parallel": "expert = 4"}
    | {"recompute": SELECTIVE.format('"layernorm"')},
    "qwen3 30B-A3B tensor 2 expert 8 uniform 2": {**QWEN_3, "tensor": 2, "data": 4}
    | {"parallel": "expert = 8", "recompute": UNIFORM.format(2)},
    "qwen3 30B-A3B expert 8 core attention": {**SHALLOW_QWEN_3, "data": 8}
    | {"parallel": "expert = 8", "recompute": SELECTIVE.format('"core_attn"')},
    "qwen1.5 A2.7B expert 4 block 1": {**QWEN_1_5, "data": 4, "parallel": "expert = 4"}
    | {"recompute": BLOCK.format(1)},
    "mixtral 8x7B expert 4 moe": {**MIXTRAL, "data": 4, "parallel": "expert = 4"}
    | {"recompute": SELECTIVE.format('"moe"')},
    "qwen3 30B-A3B tensor 2 expert 8 moe and layernorm": {**SHALLOW_QWEN_3, "tensor": 2}
    | {"data": 4, "parallel": "expert = 8", "recompute": SELECTIVE.format('"moe", "layernorm"')},
    "qwen1.5 A2.7B expert 4 shared experts": {**QWEN_1_5, "data": 4, "parallel": "expert = 4"}
    | {"recompute": SELECTIVE.format('"shared_experts"')},
    "qwen1.5 A2.7B tensor 2 expert 4 moe and shared experts": {**QWEN_1_5, "tensor": 2}
    | {"data": 2, "parallel": "expert = 4"}
    | {"recompute": SELECTIVE.format('"moe", "shared_experts"')},
    "qwen1.5 A2.7B tensor 2 expert 4 shared experts and layernorm": {**QWEN_1_5, "tensor": 2}
    | {"data": 2, "parallel": "expert = 4"}
    | {"recompute": SELECTIVE.format('"shared_experts", "layernorm"')},
    # adapters on attention
    "tiny experts fp32 lora pipeline 2": {"models": TINY_MOE, "pipeline": 2, "num_micro_batches": 3}
    | {"tuning": LORA_OF_ATTENTION},
    "mixtral 8x7B expert 4 lora": {**MIXTRAL, "data": 4, "parallel": "expert = 4"}
    | {"tuning": LORA_OF_ATTENTION},
    "mixtral 8x7B expert 8 lora, dropout, block 2": {**MIXTRAL, "data": 8}
    | {"parallel": "expert = 8", "recompute": BLOCK.format(2)}
    | {"tuning": LORA_OF_ATTENTION + "\ndropout = 0.05"},
    "qwen1.5 A2.7B tensor 2 expert 4 lora": {**QWEN_1_5, "tensor": 2, "data": 2}
    | {"parallel": "expert = 4", "tuning": LORA_OF_ATTENTION},
    "qwen3 30B-A3B tensor 2 expert 8 lora replicated": {**QWEN_3, "tensor": 2, "data": 4}
    | {"parallel": "expert = 8", "distributed": "false", "tuning": LORA_OF_ATTENTION},
    "qwen3 30B-A3B pipeline 2 expert 8 lora moe": {**QWEN_3, "pipeline": 2, "data": 8}
    | {"parallel": "expert = 8", "num_micro_batches": 2, "tuning": LORA_OF_ATTENTION}
    | {"recompute": SELECTIVE.format('"moe"')},
    # adapters on experts
    "tiny experts fp32 lora of all": {"models": TINY_MOE, "tuning": LORA.format("rank = 16")},
    "mixtral 8x7B expert 4 lora of all": {**MIXTRAL, "data": 4, "parallel": "expert = 4"}
    | {"tuning": LORA.format("rank = 16")},
    "qwen3 30B-A3B tensor 2 expert 8 lora of all": {**QWEN_3, "tensor": 2, "data": 4}
    | {"parallel": "expert = 8", "tuning": LORA.format("rank = 16")},
    "mixtral 8x7B tensor 2 expert tensor 2 lora of all": {**MIXTRAL, "tensor": 2}
    | {"data": 2, "parallel": "expert = 2\nexpert_tensor = 2"}
    | {"tuning": LORA.format("rank = 64")},
    "mixtral 8x7B expert 8 lora of down": {**MIXTRAL, "data": 8, "parallel": "expert = 8"}
    | {"tuning": LORA.format('targets = ["down_proj"]')},
    "qwen3 30B-A3B pipeline 2 expert 8 lora of all, moe": {**QWEN_3, "pipeline": 2, "data": 8}
    | {"parallel": "expert = 8", "num_micro_batches": 2, "tuning": LORA.format("rank = 16")}
    | {"recompute": SELECTIVE.format('"moe"')},
}
