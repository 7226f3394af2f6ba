"""Models with experts: over the expert axes, and beside dense ones."""

from trace_grid.models import (
    DENSE_TO_MOE,
    MIXTRAL,
    MOE_TO_DENSE,
    OLMOE,
    QWEN_1_5_MOE,
    QWEN_3_MOE,
    TINY_MOE,
    WHOLE_QWEN_3_MOE,
)

BF16 = {"dtype": "bf16"}
ALL_THREE = "expert = {}\nexpert_tensor = 2"
OWN_TENSOR = "[teacher.parallel]\ntensor = {}"
TO_TINY_MOE = {"models": ("tiny dense", "tiny moe"), **BF16}
TINY = {"models": TINY_MOE, **BF16}
MIXTRAL_2 = {"models": MIXTRAL, **BF16, "prompt": 2016}
QWEN_3_2 = {"models": QWEN_3_MOE, **BF16, "prompt": 2016}
TO_QWEN_3 = {"models": DENSE_TO_MOE, **BF16, "prompt": 4064}

CONFIGURATIONS = {
    "tiny experts fp32": {"models": TINY_MOE, "num_micro_batches": 8},
    "tiny experts replicated": {**TINY, "distributed": "false", "data": 2},
    "tiny experts, expert 4 of 4": {**TINY, "data": 4, "parallel": "expert = 4"},
    "tiny experts, tensor 2 expert 2 expert tensor 2": {**TINY, "tensor": 2, "data": 2}
    | {"parallel": ALL_THREE.format(2), "num_micro_batches": 4},
    "tiny dense to experts": TO_TINY_MOE,
    "tiny dense to experts, expert 2": {**TO_TINY_MOE, "data": 2, "num_micro_batches": 4}
    | {"parallel": "expert = 2", "teacher_parallel": OWN_TENSOR.format(1)},
    "tiny experts to dense": {"models": ("tiny moe", "tiny dense"), "num_micro_batches": 8},
    "mixtral 8x7B expert 8": {**MIXTRAL_2, "data": 8, "parallel": "expert = 8"},
    "mixtral 8x7B tensor 2 expert 2 expert tensor 2": {**MIXTRAL_2, "tensor": 2, "data": 2}
    | {"parallel": ALL_THREE.format(2), "num_micro_batches": 4},
    "olmoe tensor 2 expert 4": {"models": OLMOE, **BF16, "prompt": 2016, "tensor": 2, "data": 2}
    | {"parallel": "expert = 4", "num_micro_batches": 4},
    "qwen1.5 A2.7B tensor 2 expert 4": {"models": QWEN_1_5_MOE, **BF16, "prompt": 2016}
    | {"tensor": 2, "data": 2, "parallel": "expert = 4", "num_micro_batches": 4},
    "qwen1.5 A2.7B fp32 replicated": {"models": QWEN_1_5_MOE, "prompt": 992}
    | {"distributed": "false", "num_micro_batches": 8},
    "qwen3 30B-A3B expert 1": {**QWEN_3_2, "num_micro_batches": 8},
    "qwen3 30B-A3B expert 2": {**QWEN_3_2, "data": 2, "parallel": "expert = 2"},
    "qwen3 30B-A3B expert 4 data 8": {**QWEN_3_2, "data": 8, "parallel": "expert = 4"},
    "qwen3 30B-A3B tensor 2 expert 4": {**QWEN_3_2, "tensor": 2, "data": 4}
    | {"parallel": "expert = 4", "num_micro_batches": 2},
    "qwen3 0.6B to 30B-A3B expert 8": {**TO_QWEN_3, "data": 8, "parallel": "expert = 8"}
    | {"teacher_parallel": OWN_TENSOR.format(1)},
    "qwen3 0.6B to 30B-A3B tensor 2 expert 4 expert tensor 2": {**TO_QWEN_3, "tensor": 2}
    | {"data": 4, "parallel": ALL_THREE.format(4), "teacher_parallel": OWN_TENSOR.format(2)},
    "qwen3 30B-A3B tensor 2 expert 4 to 0.6B": {"models": MOE_TO_DENSE, **BF16, "prompt": 992}
    | {"tensor": 2, "data": 4, "teacher_parallel": OWN_TENSOR.format("2\nexpert = 4")},
    "qwen3 30B-A3B whole, expert 8": {"models": WHOLE_QWEN_3_MOE, **BF16, "prompt": 992}
    | {"data": 8, "parallel": "expert = 8"},
}
