"""A working directory with a plan over models that are known by their bundled shapes."""

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
model = "Qwen/Qwen2.5-0.5B-Instruct"
dtype = "fp32"
[student.parallel]
tensor = 2
[teacher]
model = "Qwen/Qwen2.5-1.5B-Instruct"
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
    made = Workplace(tmp_path)
    made.write_plan()
    return made
