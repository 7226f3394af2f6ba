"""Plans over tiny real models that a CPU can run in seconds, with any of the keys of a plan."""

from pathlib import Path
from random import Random
from typing import Any

import tomlkit
from tiny import save_family, save_llama, save_olmoe, save_qwen2, save_qwen3_moe, save_rows

BASE: dict[str, Any] = {
    "name": "small",
    "cluster": {"devices_per_node": 1},
    "student": {"model": "models/llama", "dtype": "fp32"},
    "teacher": {"model": "models/qwen2"},
    "generation": {"max_completion_length": 6},
    "data": {"train": ["rows.jsonl"], "max_length": 48},
    "batch": {"micro": 1, "global": 4},
    "run": {"steps": 2, "output": "run"},
}
MODELS = ["models/llama", "models/qwen2", "models/qwen3_moe", "models/olmoe", "models/gemma2"]
PARALLEL = {
    "tensor": [1, 2],
    "sequence": [True, False],
    "pipeline": [1, 2],
    "virtual_pipeline": [2],
    "first_stage_layers": [1],
    "context": [1, 2],
    "expert": [2],
    "expert_tensor": [2],
}
CHOICES: dict[str, dict[str, list[Any]]] = {
    "cluster": {"devices_per_node": [1, 2, 2, 4], "memory_limit": ["300 MiB", "2 GiB"]},
    "student": {
        "model": MODELS,
        "dtype": ["fp32", "bf16"],
        "tuning": ["full", "lora"],
        "lora": [{"rank": 2}, {"targets": ["q_proj", "v_proj"], "dropout": 0.1}, {"alpha": 1.0}],
        "init": ["pretrained", "random", "layers"],
        "keep": [{"layers": [0, 2]}, {"layers": [1]}],
        "offload": ["none", "grads", "cpu", "auto"],
        "router_aux_loss_coef": [0.01],
    },
    "student.parallel": PARALLEL,
    "student.recompute": {
        "granularity": ["selective", "full"],
        "method": ["uniform", "block"],
        "num_layers": [1, 2],
        "modules": [["mlp"], ["core_attn"], ["moe"], ["layernorm"]],
    },
    "teacher": {
        "model": MODELS,
        "dtype": ["bf16", "fp32"],
        "offload": ["none", "cpu", "auto"],
        "prefetch": [True, False],
        "stream": [True],
    },
    "teacher.parallel": PARALLEL,
    "distill": {
        "beta": [0.0, 0.1, 1.0],
        "lmbda": [0.0, 1.0],
        "seq_kd": [True, 0.5],
        "temperature": [0.5, 2.0],
        "sampling_temperature": [0.0],
        "sft_alpha": [0.5],
        "payload": ["hidden", "logits", "top_k"],
        "top_k": [4],
        "loss_backend": ["eager", "compiled"],
    },
    "generation": {"engine": ["megatron", "none"], "top_p": [0.9], "top_k": [3]},
    "data": {
        "eval": [["rows.jsonl#3"]],
        "max_length": [24, 48],
        "truncation": ["left", "right", "delete"],
        "shuffle": [False],
        "cache": ["tokens"],
    },
    "batch": {"micro": [1, 2, 3], "global": [2, 4, 8]},
    "optimizer": {
        "schedule": ["constant", "linear"],
        "clip_grad": [0.0],
        "distributed": [False],
        "offload": ["cpu", "auto"],
        "prefetch": [True],
    },
    "run": {
        "epochs": [1],
        "save_interval": [1],
        "eval_interval": [1],
        "eval_samples": [1, 4],
        "keep": [1],
        "loggers": [["tensorboard"]],
    },
}


def save_models(root: Path) -> None:
    """models/ and rows.jsonl: five families with one tokenizer."""
    save_llama(root / "models" / "llama", num_layers=4)
    save_qwen2(root / "models" / "qwen2", num_layers=2, hidden=48)
    save_qwen3_moe(root / "models" / "qwen3_moe")
    save_olmoe(root / "models" / "olmoe")
    save_family(root / "models" / "gemma2", "gemma2", head_dim=8)
    save_rows(root / "rows.jsonl")


def small_plan(random: Random) -> str:
    """The text of a plan with three to ten keys chosen anew, which may be impossible."""
    plan = tomlkit.parse(tomlkit.dumps(BASE)).unwrap()
    for _ in range(random.randint(3, 10)):
        place = random.choice(list(CHOICES))
        key = random.choice(list(CHOICES[place]))
        table = plan
        for name in place.split("."):
            table = table.setdefault(name, {})
        table[key] = random.choice(CHOICES[place][key])
    if "epochs" in plan["run"]:
        del plan["run"]["steps"]
    return tomlkit.dumps(plan)
