"""A session that goes on from a checkpoint of stages or of experts ends in the same bytes."""

from pathlib import Path

import pytest
import tiny
from resumed_run import ends_in_the_same_bytes
from tiny_plans import compile_tiny

LAYOUTS = {
    "interleaved stages of a tied student": "pipeline = 2\nvirtual_pipeline = 2",
    "experts": "expert = 2",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resumed_session_ends_in_the_same_bytes(layout: str, tmp_path: Path) -> None:
    home = tmp_path
    if layout == "experts":
        tiny.save_qwen3_moe(home / "teacher", seed=1)
        tiny.save_qwen3_moe(home / "student", seed=2)
    else:
        tiny.save_llama(home / "teacher", num_layers=4, seed=1)
        tiny.save_qwen2(home / "student", num_layers=4, seed=2)
    tiny.save_rows(home / "rows.jsonl")
    run_plan = compile_tiny(
        home,
        home / "run",
        devices=2,
        parallel=LAYOUTS[layout],
        held_out="[]",
        steps=4,
        save_interval=2,
    )
    ends_in_the_same_bytes(run_plan)
