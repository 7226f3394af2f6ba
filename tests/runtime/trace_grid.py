"""The grid on which the ledger is held to the trace: plans of real models, one axis at a time and
together. The tests run a part of it, `benchmarks/ledger_errors.py` all of it."""

from pathlib import Path

SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"
QWEN = "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-3B-Instruct"
SMALL_QWEN = "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"
QWEN_3 = "Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"
BIG_LLAMA = "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"

WHOLE_SEQUENCE = "sequence = false"
UNEVEN = "first_stage_layers = 3\nlast_stage_layers = 6"
UNIFORM = 'granularity = "full"\nmethod = "uniform"\nnum_layers = {}'
BLOCK = 'granularity = "full"\nmethod = "block"\nnum_layers = {}'
SELECTIVE = 'granularity = "selective"\nmodules = [{}]'
LORA = 'tuning = "lora"\n[student.lora]\n{}'

GRID = {
    # one process, data and tensor
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
    # pipelines
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
    # virtual pipelines
    "smol bf16 pipeline 3 virtual 5": {"models": SMOL, "dtype": "bf16", "pipeline": 3}
    | {"parallel": "virtual_pipeline = 5", "num_micro_batches": 6, "prompt": 480},
    "qwen2.5 1.5B to 0.5B bf16 pipeline 2 virtual 2": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"pipeline": 2, "parallel": "virtual_pipeline = 2", "num_micro_batches": 4, "prompt": 480},
    "llama 8B to 1B bf16 tensor 2 pipeline 2 virtual 4": {"models": LLAMA, "dtype": "bf16"}
    | {"tensor": 2, "pipeline": 2, "parallel": "virtual_pipeline = 4", "prompt": 2016}
    | {"num_micro_batches": 2},
    # recompute
    "smol fp32 uniform 2": {"models": SMOL, "recompute": UNIFORM.format(2), "prompt": 992},
    "smol bf16 pipeline 2 block 10": {"models": SMOL, "dtype": "bf16", "pipeline": 2}
    | {"recompute": BLOCK.format(10), "num_micro_batches": 2, "prompt": 992},
    "smol bf16 pipeline 2 uniform 5": {"models": SMOL, "dtype": "bf16", "pipeline": 2}
    | {"recompute": UNIFORM.format(5), "num_micro_batches": 2, "prompt": 992},
    "qwen2.5 1.5B to 0.5B bf16 tensor 2 core attention": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"tensor": 2, "recompute": SELECTIVE.format('"core_attn"'), "prompt": 992},
    "qwen2.5 1.5B to 0.5B bf16 tensor 2 mlp": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"tensor": 2, "recompute": SELECTIVE.format('"mlp"'), "prompt": 992},
    "qwen2.5 1.5B to 0.5B bf16 layernorm and mlp": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"recompute": SELECTIVE.format('"layernorm", "mlp"'), "prompt": 992},
    "llama 8B to 1B bf16 tensor 2 uniform 1": {"models": LLAMA, "dtype": "bf16", "tensor": 2}
    | {"recompute": UNIFORM.format(1), "prompt": 8160},
    "llama 8B to itself bf16 tensor 4 block 16": {"models": BIG_LLAMA, "dtype": "bf16"}
    | {"tensor": 4, "recompute": BLOCK.format(16), "prompt": 8160},
    # context
    "smol fp32 context 2": {"models": SMOL, "context": 2, "prompt": 480},
    "qwen2.5 1.5B to 0.5B bf16 tensor 2 context 2": {"models": SMALL_QWEN, "dtype": "bf16"}
    | {"tensor": 2, "context": 2, "prompt": 992},
    "smol bf16 context 2 pipeline 2": {"models": SMOL, "dtype": "bf16", "context": 2}
    | {"pipeline": 2, "num_micro_batches": 2, "prompt": 992},
    # adapters
    "smol fp32 lora": {"models": SMOL, "tuning": LORA.format("rank = 16")},
    "smol fp32 lora dropout replicated": {"models": SMOL, "distributed": "false"}
    | {"tuning": LORA.format("rank = 16\ndropout = 0.05"), "completion": 320},
    "smol fp32 lora data 2 logits": {"models": SMOL, "tuning": LORA.format("rank = 8")}
    | {"data": 2, "payload": "logits"},
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
"""Name -> changes to the defaults."""
IN_EVERY_RUN = (
    "smol fp32 replicated",
    "llama 8B to 1B fp32 replicated logits",
    "smol fp32 pipeline 2",
    "llama 8B to 1B bf16 tensor 2 uniform 1",
    "smol bf16 lora of q and v replicated",
    "qwen2.5 1.5B to 0.5B fp32 lora tensor 2 replicated",
)
"""The rest of the grid runs with `pytest -m grid`."""

_DEFAULTS = {
    "dtype": "fp32",
    "tensor": 1,
    "pipeline": 1,
    "context": 1,
    "data": 1,
    "tuning": "",
    "parallel": "",
    "recompute": "",
    "distributed": "true",
    "payload": "hidden",
    "beta": 0.5,
    "prompt": 96,
    "completion": 32,
    "num_micro_batches": 1,
}
_PLAN = """
name = "grid"
[cluster]
devices_per_node = {devices}
memory_limit = "4TiB"
[student]
model = "{student}"
dtype = "{dtype}"
{tuning}
[student.parallel]
tensor = {tensor}
pipeline = {pipeline}
context = {context}
{parallel}
[student.recompute]
{recompute}
[teacher]
model = "{teacher}"
[distill]
beta = {beta}
lmbda = 0.0
payload = "{payload}"
[generation]
engine = "none"
max_completion_length = {completion}
[data]
train = ["{rows}"]
max_length = {prompt}
[batch]
micro = 1
global = {num_rows}
[optimizer]
distributed = {distributed}
[run]
steps = 2
"""


def grid_text(rows: Path, *, models: tuple[str, str], **changes: object) -> str:
    """The plan of a teacher and a student, with `changes` to the defaults of the grid."""
    values = {**_DEFAULTS, **changes}
    return _PLAN.format(
        teacher=models[0],
        student=models[1],
        rows=rows,
        devices=values["tensor"] * values["pipeline"] * values["context"] * values["data"],
        num_rows=values["data"] * values["num_micro_batches"],
        **values,
    )
