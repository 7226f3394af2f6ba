"""`verify --trace` of models that see: the traced step beside the plan, and beside a real one."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_tiny
from tiny_vision import (
    IMAGE_TOKEN,
    save_image,
    save_internvl,
    save_llava,
    save_qwen3_vl,
    save_qwen3_vl_moe,
    save_qwen_vl,
    save_seeing_rows,
)

from gkdplan.report.trace import compare
from gkdplan.runplan.codec import encode
from gkdplan.runtime.data.chat_of_plan import chat_of_plan
from gkdplan.runtime.data.examples import Split, load_examples
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.trace import trace
from gkdplan.vocab import Phase

PLAN = {"generation": 'engine = "none"', "prompt": 72, "completion": 24, "micro": 2}
TRACED = (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER)
LEARNING = {"student": "freeze_vision = false\nfreeze_projector = false"}
LORA = """tuning = "lora"
[student.lora]
rank = 8
alpha = 16.0
targets = ["all-linear"]"""
RECOMPUTE = """granularity = "full"
method = "uniform"
num_layers = 1"""
LAYOUTS = {
    "one process": {},
    "eyes that learn": LEARNING,
    "tensor 2": {"devices": 2, "tensor": 2},
    "pipeline 2": {"devices": 2, "parallel": "pipeline = 2"},
    "adapters": {"student": LORA},
    "eyes beside adapters": {"student": f"{LEARNING['student']}\n{LORA}"},
    "made again": {**LEARNING, "recompute": RECOMPUTE},
    "interleaved": {
        **LEARNING,
        "devices": 2,
        "parallel": "pipeline = 2\nvirtual_pipeline = 2",
        "micro": 1,
    },
}
OF_EXPERTS = {
    "experts": {"devices": 2, "parallel": "expert = 2"},
    "experts with adapters": {"devices": 2, "parallel": "expert = 2", "student": LORA},
}
EVERY_RUN = {
    ("llava", "tensor 2"),
    ("qwen-vl", "interleaved"),
    ("qwen3-vl", "eyes beside adapters"),
}
"""The others are in the grid."""
CASES = [
    pytest.param(kind, layout, marks=() if (kind, layout) in EVERY_RUN else pytest.mark.grid)
    for kind in ("llava", "qwen-vl", "internvl", "qwen3-vl")
    for layout in LAYOUTS
    if (kind, layout) != ("qwen3-vl", "interleaved")
]
CASES += [pytest.param("qwen3-vl-moe", layout, marks=pytest.mark.grid) for layout in OF_EXPERTS]


def make_home(kind: str, home: Path, teacher_layers: int = 4) -> Path:
    """Models wide enough that their tensors are what is counted."""
    save, of_teacher, of_student = {
        "llava": (save_llava, {}, {}),
        "internvl": (save_internvl, {}, {}),
        "qwen-vl": (save_qwen_vl, {"sections": (4, 4, 8)}, {"sections": (4, 4, 4)}),
        "qwen3-vl": (save_qwen3_vl, {}, {"deep_layers": (1,)}),
        "qwen3-vl-moe": (save_qwen3_vl_moe, {}, {"deep_layers": (1,)}),
    }[kind]
    of_teacher |= {"num_layers": teacher_layers, "hidden": 128, "ffn": 384, "tower_hidden": 64}
    save(home / "teacher", seed=1, **of_teacher)
    save(home / "student", num_layers=4, hidden=96, ffn=288, tower_hidden=48, seed=2, **of_student)
    save_seeing_rows(home / "rows.jsonl")
    return home


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_the_trace_is_as_planned(kind, layout, tmp_path):
    home = make_home(kind, tmp_path / "home")
    run_plan = compile_tiny(home, tmp_path / "run", **PLAN | (LAYOUTS | OF_EXPERTS)[layout])
    for of_class in compare(run_plan, trace(run_plan)):
        assert max(map(abs, of_class.errors)) <= 0.01


@pytest.mark.parametrize("layout", ["one process", "eyes that learn", "tensor 2"])
def test_the_trace_equals_a_step_on_real_images(layout, tmp_path):
    """Every row shows two images and fills the plan."""
    home = make_home("llava", tmp_path / "home")
    images = [str(save_image(home / f"{number}.png", number)) for number in range(2)]
    content = IMAGE_TOKEN * 2 + "what is it?"
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "blue " * 9}]
    row = json.dumps({"messages": turns, "images": images})
    (home / "rows.jsonl").write_text((row + "\n") * 8, encoding="utf-8")
    sizes = _sizes(home, tmp_path)
    run_plan = compile_tiny(home, tmp_path / "run", **PLAN | sizes, **LAYOUTS[layout])
    (peaks,) = trace(run_plan).values()
    run_on_ranks(_check_step, run_plan.layout.world_size, encode(run_plan), dict(peaks))


def _sizes(home: Path, tmp_path: Path) -> dict[str, int]:
    """Of the rows, as tokens."""
    plan = compile_tiny(home, tmp_path / "measured", **PLAN | {"prompt": 68, "completion": 60})
    chat = chat_of_plan(plan, home / "student", home / "teacher")
    first, *_ = load_examples(Split(plan.data.train, plan.data, 60), chat).examples
    return {"prompt": len(first.prompt), "completion": len(first.response)}


def _check_step(lock: str, traced: dict[Phase, int]) -> None:
    session = open_silently(lock)
    with settled():
        for step in (1, 2):
            Executor(session)._run_step(step)
    session.metrics.close()
    measured = torch.tensor([session.phases.peak_bytes[phase] for phase in TRACED])
    dist.all_reduce(measured, dist.ReduceOp.MAX)
    for phase, peak_bytes in zip(TRACED, measured.tolist(), strict=True):
        error = traced[phase] / peak_bytes - 1
        assert abs(error) <= 0.002, f"{phase}: the trace is off by {error:+.3%}"
