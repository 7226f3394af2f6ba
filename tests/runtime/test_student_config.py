"""The config of a student that is made of some of a model's layers says what these layers do."""

import json
from pathlib import Path

import pytest
import tiny
from tiny_plans import compile_plan_text, plan_text

from gkdplan.facts.config import read_shape
from gkdplan.runtime.student_config import student_config

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SOURCES = {
    "mistral": {"sliding_window": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 8},
    "smollm3": {"no_rope_layer_interval": 2},
    "qwen3_moe": EXPERTS | {"decoder_sparse_step": 2},
}
KEPT = {"of both kinds": [1, 2, 4], "of one kind": [1, 3], "of the other": [0, 2, 4]}


@pytest.mark.parametrize("layers", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("family", SOURCES)
def test_it_describes_the_layers_that_were_taken(
    family: str, layers: list[int], tmp_path: Path
) -> None:
    for role in ("student", "teacher"):
        tiny.save_family(tmp_path / role, family, num_layers=6, **SOURCES[family])
    tiny.save_rows(tmp_path / "rows.jsonl")
    student = f'init = "layers"\nkeep.layers = {layers}'
    run_plan = compile_plan_text(plan_text(tmp_path, tmp_path / "run", student=student))
    plan = run_plan.models.student
    source = json.loads((tmp_path / "student" / "config.json").read_text())
    whole, _ = read_shape(source, "source")
    saved, findings = read_shape(student_config(plan, tmp_path / "student"), "saved")
    assert saved is not None, findings
    assert whole is not None
    assert saved == plan.shape == whole.keeping(layers)
