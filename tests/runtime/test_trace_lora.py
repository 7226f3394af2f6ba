"""The ledger of a student that is tuned with adapters, against its traced step."""

import pytest
import tiny
from test_trace import QWEN, SMALL_QWEN, SMOL, TRACED, grid_text
from tiny_plans import compile_plan_text

from gkdplan.report.trace import compare
from gkdplan.runtime.trace import trace

GRID = {
    "smol fp32": {"models": SMOL},
    "smol fp32 replicated dropout": {"models": SMOL, "distributed": "false", "completion": 320}
    | {"lora": "rank = 16\ndropout = 0.05"},
    "smol fp32 data 2 logits": {"models": SMOL, "data": 2, "payload": "logits"},
    "smol bf16 data 2": {"models": SMOL, "dtype": "bf16", "data": 2},
    "smol bf16 q and v replicated": {"models": SMOL, "dtype": "bf16", "distributed": "false"}
    | {"prompt": 992, "lora": 'targets = ["q_proj", "v_proj"]'},
    "smol bf16 down dropout": {"models": SMOL, "dtype": "bf16", "prompt": 4000}
    | {"lora": 'targets = ["down_proj"]\nrank = 64\ndropout = 0.1'},
    "qwen2.5 1.5B to 0.5B fp32 tensor 2 replicated": {"models": SMALL_QWEN, "tensor": 2}
    | {"distributed": "false", "prompt": 480},
    "qwen2.5 7B to 3B fp32 data 2": {"models": QWEN, "data": 2, "prompt": 992, "lora": "rank = 32"},
    "qwen2.5 7B to 3B bf16 tensor 2": {"models": QWEN, "dtype": "bf16", "tensor": 2}
    | {"prompt": 992},
    "qwen2.5 7B to 3B bf16 tensor 2 data 2 replicated dropout": {"models": QWEN, "dtype": "bf16"}
    | {"tensor": 2, "data": 2, "distributed": "false", "prompt": 8160}
    | {"lora": "rank = 64\ndropout = 0.05"},
}
IN_EVERY_RUN = (
    "smol fp32 data 2 logits",
    "smol bf16 q and v replicated",
    "qwen2.5 1.5B to 0.5B fp32 tensor 2 replicated",
)
"""The rest of the grid runs with `pytest -m grid`."""
NAMES = [n if n in IN_EVERY_RUN else pytest.param(n, marks=pytest.mark.grid) for n in GRID]


@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_of_adapters_is_within_a_hundredth_of_the_trace(name, tmp_path):
    rows = tiny.save_rows(tmp_path / "rows.jsonl", tiny.ROWS * 2)
    run_plan = compile_plan_text(lora_text(rows, **GRID[name]))
    (of_class,) = compare(run_plan, trace(run_plan))
    phases = [phase for phase in of_class.phases if phase.error is not None]
    print(name, *(f"{phase.phase} {phase.error:+.3%}" for phase in phases), sep="  ")
    assert {phase.phase for phase in phases} == {*TRACED}
    for phase in phases:
        assert abs(phase.error) <= 0.01, f"{phase.phase} misses by {phase.error:+.3%}"


def lora_text(rows, *, lora: str = "", **changes: object) -> str:
    """The grid's plan with adapters in place of full tuning."""
    table = f'tuning = "lora"\n[student.lora]\n{lora}\n[student.parallel]'
    return grid_text(rows, **changes).replace("[student.parallel]", table, 1)
