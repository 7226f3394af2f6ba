"""Teachers with a layout of their own on the student's ranks."""

from trace_grid.models import LLAMA, MOE_TO_DENSE, QWEN_3, SMALL_QWEN, SMOL, TINY_DENSE

_OWN = "[teacher.parallel]\n{}"
BF16 = {"dtype": "bf16"}


def own(*axes: str) -> dict[str, str]:
    return {"teacher_parallel": _OWN.format("\n".join(axes))}


CONFIGURATIONS = {
    "tiny dense of tensor 2 context 2 to bf16 pipeline 2 data 2": {"models": TINY_DENSE, **BF16}
    | {"pipeline": 2, "data": 2, "num_micro_batches": 4, **own("tensor = 2", "context = 2")},
    "tiny experts of expert 2 to dense tensor 2": {"models": ("tiny moe", "tiny dense"), **BF16}
    | {"tensor": 2, "num_micro_batches": 4, **own("tensor = 1", "expert = 2")},
    "qwen2.5 1.5B of tensor 2 to 0.5B data 2 logits": {"models": SMALL_QWEN, "data": 2}
    | {"payload": "logits", "prompt": 480, **own("tensor = 2")},
    "smol of pipeline 2 to data 2": {"models": SMOL, "data": 2, "num_micro_batches": 2}
    | own("pipeline = 2"),
    "smol of context 2 to data 2": {"models": SMOL, "data": 2, "prompt": 480, **own("context = 2")},
    "smol of data 2 to bf16 context 2": {"models": SMOL, **BF16, "context": 2, "prompt": 480}
    | {"num_micro_batches": 2, **own("tensor = 1")},
    "qwen2.5 1.5B of tensor 4 to 0.5B bf16 tensor 2 pipeline 2": {"models": SMALL_QWEN, **BF16}
    | {"tensor": 2, "pipeline": 2, "num_micro_batches": 2, "prompt": 480, **own("tensor = 4")},
    "qwen2.5 1.5B of data 2 to 0.5B bf16 tensor 2 logits": {"models": SMALL_QWEN, **BF16}
    | {"tensor": 2, "payload": "logits", "num_micro_batches": 2, **own("tensor = 1")},
    "qwen2.5 1.5B of pipeline 2 virtual 2 to 0.5B bf16 data 2": {"models": SMALL_QWEN, **BF16}
    | {"data": 2, "num_micro_batches": 2, "prompt": 480}
    | own("pipeline = 2", "virtual_pipeline = 2"),
    "qwen3 8B of tensor 2 pipeline 2 to 0.6B bf16 tensor 2 data 2": {"models": QWEN_3, **BF16}
    | {"tensor": 2, "data": 2, "prompt": 992, **own("tensor = 2", "pipeline = 2")},
    "qwen3 30B-A3B of expert 2 to 0.6B bf16 tensor 2": {"models": MOE_TO_DENSE, **BF16}
    | {"tensor": 2, "num_micro_batches": 2, "prompt": 992, **own("tensor = 1", "expert = 2")},
    "llama 8B of tensor 2 to 1B bf16 pipeline 2 logits": {"models": LLAMA, **BF16, "pipeline": 2}
    | {"payload": "logits", "num_micro_batches": 2, "prompt": 992, **own("tensor = 2")},
}
