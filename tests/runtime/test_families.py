"""One step of every family over the axes, against the textbook with transformers in float64."""

from pathlib import Path
from typing import Any

import pytest
import tiny
from gloo_ranks import run_on_ranks
from one_step import Reference
from silent_session import open_silently
from tiny_latents import GROUPS, LATENTS, yarn
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode

FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"head_dim": 16, "sliding_window": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 8},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 8},
    "phi3": {"sliding_window": 8},
    "smollm3": {"no_rope_layer_interval": 2},
    "glm": {"head_dim": 8, "attention_bias": True},
    "glm4": {"head_dim": 8, "attention_bias": False},
    "olmo2": {},
    "deepseek_v2": LATENTS | {"topk_method": "greedy", "q_lora_rank": None},
    "deepseek_v3": LATENTS | GROUPS | {"rope_parameters": yarn(4.0)},
}
LAYOUTS = {
    "tensor 2": {"devices": 2, "tensor": 2},
    "pipeline 2": {"devices": 2, "parallel": "pipeline = 2"},
}
OF_EXPERTS = {
    "tensor 2 expert 2": {"devices": 2, "tensor": 2, "parallel": "expert = 2"},
    "expert 2": {"devices": 2, "parallel": "expert = 2"},
    "pipeline 2": LAYOUTS["pipeline 2"],
    "context 2": {"devices": 2, "parallel": "context = 2"},
    "tensor 2 context 2 expert 2": {"devices": 4, "tensor": 2}
    | {"parallel": "context = 2\nexpert = 2"},
    "context 2 pipeline 2 expert 2": {"devices": 4}
    | {"parallel": "context = 2\npipeline = 2\nexpert = 2"},
}
LAYOUTS_OF = {"deepseek_v2": OF_EXPERTS, "deepseek_v3": OF_EXPERTS}
IN_EVERY_RUN = {
    ("olmo2", "tensor 2"),
    ("phi3", "pipeline 2"),
    ("deepseek_v2", "pipeline 2"),
    ("deepseek_v2", "context 2"),
    ("deepseek_v3", "tensor 2 expert 2"),
}
CASES = [
    pytest.param(
        family,
        layout,
        id=f"{family}, {layout}",
        marks=() if (family, layout) in IN_EVERY_RUN else pytest.mark.grid,
    )
    for family in FAMILIES
    for layout in LAYOUTS_OF.get(family, LAYOUTS)
]


@pytest.mark.parametrize(("family", "layout"), CASES)
def test_loss_and_gradients_equal_float64_on_one_process(
    family: str, layout: str, tmp_path: Path
) -> None:
    keys = FAMILIES[family]
    tiny.save_family(tmp_path / "student", family, num_layers=4, seed=2, **keys)
    tiny.save_family(tmp_path / "teacher", family, num_layers=4, hidden=64, seed=1, **keys)
    tiny.save_rows(tmp_path / "rows.jsonl")
    axes = LAYOUTS_OF.get(family, LAYOUTS)[layout]
    run_plan = compile_tiny(tmp_path, tmp_path / "run", distributed="false", **axes)
    run_on_ranks(_check, run_plan.layout.world_size, encode(run_plan))


def _check(lock: str) -> None:
    session = open_silently(lock)
    loss, gradients = Reference(session.plan).errors(session, 0.5, 1.0)
    assert loss <= 1e-5
    for name, error in gradients.items():
        assert error <= 1e-5, f"{name} is off by {error:.2e}"
