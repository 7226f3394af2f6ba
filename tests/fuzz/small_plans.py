"""Plans over tiny real models that a CPU can run in seconds, with any of the keys of a plan."""

from pathlib import Path
from random import Random
from typing import Any

import tomlkit
from tiny import save_family, save_llama, save_olmoe, save_qwen2, save_qwen3_moe, save_rows
from tiny_latents import GROUPS, LATENTS
from tiny_vision import (
    save_internvl,
    save_llava,
    save_qwen3_vl,
    save_qwen3_vl_moe,
    save_qwen_vl,
    save_seeing_rows,
)

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
MODELS = ["llama", "qwen2", "qwen3_moe", "qwen3_moe_of_some", "olmoe", "gemma2", "deepseek_v3"]
SEEING = {
    "llava": save_llava,
    "qwen2_5_vl": save_qwen_vl,
    "qwen3_vl": save_qwen3_vl,
    "qwen3_vl_moe": save_qwen3_vl_moe,
    "internvl": save_internvl,
}
"""The models that see: of each kind a large one and a small one."""
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
        "model": [f"models/{name}" for name in MODELS],
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
        "model": [f"models/{name}" for name in MODELS],
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


OF_SIGHT: dict[str, list[Any]] = {
    "freeze_vision": [True, False],
    "freeze_projector": [True, False],
    "freeze_language": [True, False],
}


def save_models(root: Path) -> None:
    """models/ and rows.jsonl: families with one tokenizer."""
    save_llama(root / "models" / "llama", num_layers=4)
    save_qwen2(root / "models" / "qwen2", num_layers=2, hidden=48)
    save_qwen3_moe(root / "models" / "qwen3_moe")
    save_olmoe(root / "models" / "olmoe")
    save_qwen3_moe(root / "models" / "qwen3_moe_of_some", num_layers=4, dense=(0, 2))
    save_family(root / "models" / "gemma2", "gemma2", head_dim=8)
    save_family(root / "models" / "deepseek_v3", "deepseek_v3", num_layers=3, **LATENTS, **GROUPS)
    save_rows(root / "rows.jsonl")


def save_seeing_models(root: Path, kind: str) -> None:
    """models/ and rows.jsonl: a large and a small model of one kind that sees."""
    save = SEEING[kind]
    save(root / "models" / "large", num_layers=4, ffn=64, seed=1)
    save(root / "models" / "small", num_layers=2, seed=2)
    save_seeing_rows(root / "rows.jsonl")


def small_plan(random: Random) -> str:
    """The text of a plan with three to ten keys chosen anew, which may be impossible."""
    return _changed(BASE, CHOICES, random)


def small_seeing_plan(random: Random) -> str:
    """The same over the two models that see."""
    models = {"model": ["models/large", "models/small"]}
    choices = CHOICES | {
        "student": CHOICES["student"] | models | OF_SIGHT,
        "teacher": CHOICES["teacher"] | models,
        "data": CHOICES["data"] | {"image_hosts": [["localhost:9", "images.example.org"]]},
    }
    base = BASE | {
        "student": {"model": "models/small", "dtype": "fp32"},
        "teacher": {"model": "models/large"},
        "data": BASE["data"] | {"max_length": 96},
    }
    return _changed(base, choices, random)


def _changed(base: dict[str, Any], choices: dict[str, dict[str, list[Any]]], random: Random) -> str:
    plan = tomlkit.parse(tomlkit.dumps(base)).unwrap()
    for _ in range(random.randint(3, 10)):
        place = random.choice(list(choices))
        key = random.choice(list(choices[place]))
        table = plan
        for name in place.split("."):
            table = table.setdefault(name, {})
        table[key] = random.choice(choices[place][key])
    if "epochs" in plan["run"]:
        del plan["run"]["steps"]
    return tomlkit.dumps(plan)
