"""Models whose queries, keys and values come from latents."""

from trace_grid.models import DEEPSEEK_V2_LITE, DEEPSEEK_V3, TINY_LATENTS
from trace_grid.plan import BLOCK, LORA, SELECTIVE, UNIFORM

BF16 = {"dtype": "bf16"}
LORA_OF_ATTENTION = LORA.format(
    'targets = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]\nrank = 16'
)
LORA_OF_LITE = LORA.format('targets = ["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]')
LITE = {"models": DEEPSEEK_V2_LITE, **BF16, "prompt": 992}

CONFIGURATIONS = {
    "tiny latents fp32": {"models": TINY_LATENTS, "num_micro_batches": 4},
    "tiny latents tensor 2 expert 2": {"models": TINY_LATENTS, **BF16, "tensor": 2}
    | {"parallel": "expert = 2"},
    "tiny latents pipeline 2 attention again": {"models": TINY_LATENTS, "pipeline": 2}
    | {"num_micro_batches": 3, "recompute": SELECTIVE.format('"core_attn", "layernorm"')},
    "tiny latents pipeline 2 block 1": {"models": TINY_LATENTS, "pipeline": 2}
    | {"num_micro_batches": 3, "recompute": BLOCK.format(1)},
    "tiny latents context 2": {"models": TINY_LATENTS, "context": 2, "num_micro_batches": 2},
    "tiny latents context 4": {"models": TINY_LATENTS, **BF16, "context": 4},
    "tiny latents tensor 2 context 2 expert 2": {"models": TINY_LATENTS, **BF16, "tensor": 2}
    | {"context": 2, "parallel": "expert = 2"},
    "tiny latents context 2 pipeline 2": {"models": TINY_LATENTS, "context": 2, "pipeline": 2}
    | {"num_micro_batches": 3},
    "tiny latents context 2 pipeline 2 attention and norms again": {"models": TINY_LATENTS}
    | {"context": 2, "pipeline": 2, "num_micro_batches": 3}
    | {"recompute": SELECTIVE.format('"core_attn", "layernorm"')},
    "tiny latents load balanced": {"models": TINY_LATENTS}
    | {"tuning": "router_aux_loss_coef = 0.01"},
    "tiny latents lora": {"models": TINY_LATENTS, "tuning": LORA_OF_ATTENTION},
    "tiny latents lora, dropout, tensor 2 expert 2": {"models": TINY_LATENTS, **BF16, "tensor": 2}
    | {"parallel": "expert = 2", "tuning": LORA_OF_ATTENTION + "\ndropout = 0.1"},
    "tiny latents lora of down, context 2 pipeline 2": {"models": TINY_LATENTS, "context": 2}
    | {"tuning": LORA.format('targets = ["q_a_proj", "kv_a_proj_with_mqa"]'), "pipeline": 2}
    | {"num_micro_batches": 3},
    "tiny latents lora of up, attention and norms again": {"models": TINY_LATENTS}
    | {"tuning": LORA.format('targets = ["q_b_proj", "kv_b_proj"]')}
    | {"recompute": SELECTIVE.format('"core_attn", "layernorm"')},
    "deepseek v2 lite lora expert 4": {**LITE, "prompt": 3968, "data": 4}
    | {"parallel": "expert = 4", "tuning": LORA_OF_LITE},
    "deepseek v3 lora tensor 8 expert 8": {"models": DEEPSEEK_V3, **BF16, "tensor": 8}
    | {"parallel": "expert = 8", "prompt": 992, "tuning": LORA_OF_ATTENTION},
    "deepseek v2 lite fp32": {"models": DEEPSEEK_V2_LITE, "prompt": 480},
    "deepseek v2 lite expert 4": {**LITE, "prompt": 3968, "data": 4, "parallel": "expert = 4"},
    "deepseek v2 lite uniform 1": {**LITE, "recompute": UNIFORM.format(1)},
    "deepseek v2 lite attention and experts again": {**LITE}
    | {"recompute": SELECTIVE.format('"core_attn", "moe", "layernorm"')},
    "deepseek v2 lite context 2 expert 4": {**LITE, "prompt": 3968, "context": 2, "data": 2}
    | {"parallel": "expert = 4"},
    "deepseek v3 tensor 4 context 4 expert 16": {"models": DEEPSEEK_V3, **BF16, "tensor": 4}
    | {"context": 4, "parallel": "expert = 16", "prompt": 8160},
    "deepseek v3 context 2 pipeline 2 expert 4": {"models": DEEPSEEK_V3, **BF16, "context": 2}
    | {"pipeline": 2, "data": 2, "parallel": "expert = 4", "prompt": 480, "num_micro_batches": 3},
    "deepseek v3 tensor 8 expert 8": {"models": DEEPSEEK_V3, **BF16, "tensor": 8}
    | {"parallel": "expert = 8", "prompt": 992},
    "deepseek v3 pipeline 2 expert 2": {"models": DEEPSEEK_V3, "pipeline": 2, "data": 2}
    | {"parallel": "expert = 2", "prompt": 480, "num_micro_batches": 3},
}
