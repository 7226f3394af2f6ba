"""One configuration of the grid as a plan: its models, and changes to the defaults."""

import json
from pathlib import Path

import tiny
from tiny_plans import compile_plan_text

from gkdplan.facts.known import find_known
from gkdplan.runplan.model import RunPlan

UNIFORM = 'granularity = "full"\nmethod = "uniform"\nnum_layers = {}'
BLOCK = 'granularity = "full"\nmethod = "block"\nnum_layers = {}'
SELECTIVE = 'granularity = "selective"\nmodules = [{}]'
LORA = 'tuning = "lora"\n[student.lora]\n{}'

_DEFAULTS = {
    "dtype": "fp32",
    "tensor": 1,
    "pipeline": 1,
    "context": 1,
    "data": 1,
    "tuning": "",
    "parallel": "",
    "teacher_parallel": "",
    "recompute": "",
    "distributed": "true",
    "payload": "hidden",
    "distill": "",
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
{teacher_parallel}
[distill]
beta = {beta}
lmbda = 0.0
payload = "{payload}"
{distill}
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
_LATENTS = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
}
_TINY = {
    "tiny latents": lambda directory: tiny.save_family(
        directory, "deepseek_v3", num_layers=4, hidden=64, ffn=96, **_LATENTS
    ),
    "tiny moe": lambda directory: tiny.save_qwen3_moe(directory, num_layers=4, hidden=64, ffn=48),
    "tiny mixed": lambda directory: tiny.save_qwen3_moe(
        directory, num_layers=4, hidden=64, ffn=48, dense=(0, 3)
    ),
    "tiny dense": lambda directory: tiny.save_llama(directory, num_layers=4, hidden=64, ffn=96),
}


def compile_configuration(home: Path, *, models: tuple[str, str], **changes: object) -> RunPlan:
    """The run plan of a teacher and a student, with `changes` to the defaults of the grid.

    A model is "tiny moe", "tiny mixed", "tiny dense", a known model, or the first layers of one:
    "2 of Qwen/...", of which some may have no experts: "4 of Qwen/... dense 0 1". What is made of
    them lies in `home`.
    """
    values = {**_DEFAULTS, **changes}
    rows = home / "rows.jsonl"
    if not rows.exists():
        tiny.save_rows(rows, tiny.ROWS * 8)
    text = _PLAN.format(
        teacher=_model(home, models[0]),
        student=_model(home, models[1]),
        rows=rows,
        devices=values["tensor"] * values["pipeline"] * values["context"] * values["data"],
        num_rows=values["data"] * values["num_micro_batches"],
        **values,
    )
    return compile_plan_text(text)


def _model(home: Path, name: str) -> str:
    directory = home / name.replace("/", "_")
    if name in _TINY:
        return str(directory if directory.exists() else _TINY[name](directory))
    if " of " not in name:
        return name
    num_layers, others = name.split(" of ")
    hub_id, _, dense = others.partition(" dense ")
    directory.mkdir(exist_ok=True)
    config = dict(find_known(hub_id).config) | {"num_hidden_layers": int(num_layers)}
    if dense:
        config["mlp_only_layers"] = [int(layer) for layer in dense.split()]
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)
