"""Models whose scores are bounded, cut by a window or turned in part."""

from trace_grid.models import GEMMA_2, GEMMA_3, PHI_3, SMOL_3
from trace_grid.plan import LORA

CONFIGURATIONS = {
    "gemma 2 2B fp32": {"models": GEMMA_2, "prompt": 480, "completion": 64},
    "gemma 2 2B bf16 beyond its window, tensor 2": {"models": GEMMA_2, "dtype": "bf16"}
    | {"tensor": 2, "prompt": 4448},
    "gemma 2 2B bf16 logits": {"models": GEMMA_2, "dtype": "bf16", "payload": "logits"}
    | {"prompt": 992, "completion": 512},
    "gemma 3 1B fp32 pipeline 2": {"models": GEMMA_3, "pipeline": 2, "prompt": 992}
    | {"num_micro_batches": 2},
    "gemma 3 1B bf16 uniform 1": {"models": GEMMA_3, "dtype": "bf16", "prompt": 2016}
    | {"recompute": 'granularity = "full"\nmethod = "uniform"\nnum_layers = 1'},
    "smollm 3 3B bf16": {"models": SMOL_3, "dtype": "bf16", "prompt": 992},
    "phi 3 mini bf16 beyond its window": {"models": PHI_3, "dtype": "bf16", "prompt": 2400},
    "phi 3 mini bf16 lora tensor 2": {"models": PHI_3, "dtype": "bf16", "tensor": 2}
    | {"tuning": LORA.format("rank = 64")},
}
