"""A plan with Qwen2.5-VL is refused before anything is priced."""

from dataclasses import replace

import pytest
from planner_facts import TINY, facts, model_facts, plan, tokenizer

from gkdplan.planner.compiler import compile_plan
from gkdplan.vision import QwenVision

VISION = QwenVision(
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    ffn_hidden_size=20,
    patch_size=4,
    temporal_patch_size=2,
    merge_size=2,
    window_size=16,
    full_layers=(1,),
    output_size=96,
    rotary_sections=(2, 3, 3),
    image_token_id=7,
)
SEEING = replace(TINY, vision=VISION)


@pytest.mark.parametrize("roles", [("student",), ("teacher",), ("student", "teacher")])
def test_each_model_of_qwen_vl_is_refused_by_name(roles):
    models = facts()
    for role in roles:
        seeing = model_facts(role, SEEING, tokenizer())
        models = replace(models, **{role: seeing})
    compilation = compile_plan(plan(), models, "test")
    found = [f for f in compilation.diagnostics if f.code == "GK590"]
    assert [f.path for f in found] == [f"{role}.model" for role in roles]
    assert all("Qwen2.5-VL" in f.message and f.help for f in found)
    assert compilation.run_plan is None
