"""A working directory with a plan over two model directories without weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

PLAN = """
name = "little"
[cluster]
devices_per_node = 2
memory_limit = "{limit}"
[student]
model = "Qwen2.5-0.5B"
dtype = "fp32"
[student.parallel]
tensor = 2
[teacher]
model = "Qwen2.5-1.5B"
offload = "cpu"
[distill]
beta = {beta}
[generation]
max_completion_length = 16
[data]
train = ["rows.jsonl"]
max_length = 32
[batch]
micro = 1
global = 4
[run]
steps = 3
"""

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "vocab_size": 151936,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
SIZES = {
    "Qwen2.5-0.5B": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "intermediate_size": 4864,
    },
    "Qwen2.5-1.5B": {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "intermediate_size": 8960,
    },
}
TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []}}


@dataclass
class Workplace:
    path: Path

    def write_plan(
        self, name: str = "plan.toml", *, beta: float = 0.5, limit: str = "64 GiB"
    ) -> None:
        (self.path / name).write_text(PLAN.format(beta=beta, limit=limit))


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Workplace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-cache"))
    row = {"prompt": "name a colour", "completion": "blue"}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 8)
    for name, sizes in SIZES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**CONFIG, **sizes}))
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    made = Workplace(tmp_path)
    made.write_plan()
    return made
