"""Runs of a student with adapters on its experts, and on the MLP of a layer that has none: in every
layout that of one process, saved as PEFT loads it, and gone on with exactly."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from peft import PeftModel
from safetensors.torch import load_file
from silent_session import open_silently
from tiny_plans import compile_tiny
from transformers import AutoModelForCausalLM

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics

NUM_STEPS = 4
LORA = 'tuning = "lora"\n[student.lora]\nrank = 4\nalpha = 16.0'
CHANGES = {"student": LORA, "steps": NUM_STEPS, "save_interval": 2, "lmbda": 0.4, "seq_kd": 0.4}
CHANGES |= {"distill": "sampling_temperature = 0.0"}
TWO, FOUR = {"devices": 2}, {"devices": 4}
LAYOUTS = {
    "expert": TWO | {"parallel": "expert = 2"},
    "tensor and expert": TWO | {"tensor": 2, "parallel": "expert = 2"},
    "tensor and expert tensor": TWO | {"tensor": 2, "parallel": "expert_tensor = 2"},
    "expert and expert tensor": FOUR | {"parallel": "expert = 2\nexpert_tensor = 2"},
    "expert over pipeline": FOUR | {"parallel": "expert = 2\npipeline = 2"},
    "tensor and expert over pipeline": FOUR | {"tensor": 2, "parallel": "expert = 2\npipeline = 2"},
}
IN_EVERY_RUN = {"tensor and expert"}
CASES = [
    pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.grid) for name in LAYOUTS
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny.save_qwen3_moe(home / "teacher", num_layers=2, hidden=48, seed=1)
    tiny.save_qwen3_moe(home / "student", num_layers=2, hidden=32, dense=(0,), seed=2)
    tiny.save_rows(home / "rows.jsonl")
    return home


@pytest.fixture(scope="module")
def run(home, tmp_path_factory) -> Callable[..., Path]:
    """A run's directory."""

    def run(*, starts: tuple[int, ...] = (0,), **changes: object) -> Path:
        output = tmp_path_factory.mktemp("runs") / "run"
        run_plan = compile_tiny(home, output, **CHANGES | changes)
        for start in starts:
            run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan), start)
            if start != starts[-1]:
                shutil.rmtree(output / "checkpoints" / f"step_{NUM_STEPS}")
        return output

    return run


@pytest.fixture(scope="module")
def alone(run) -> Path:
    return run()


@pytest.mark.parametrize("layout", CASES)
def test_the_run_is_that_of_one_process(layout, run, alone):
    found = run(**LAYOUTS[layout])
    for mine, one in zip(_steps(found), _steps(alone), strict=True):
        assert mine["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    assert len(_steps(found)) == NUM_STEPS
    for name in ("adapter/adapter_model.safetensors", "student/model.safetensors"):
        mine, one = load_file(_last(found) / name), load_file(_last(alone) / name)
        assert mine.keys() == one.keys()
        for key, tensor in mine.items():
            torch.testing.assert_close(tensor, one[key], atol=1e-4, rtol=0.0)


def test_peft_loads_the_adapters_and_gives_the_merged_students_logits(alone, home):
    _assert_peft_gives_the_merged_logits(_last(alone), home / "student")
    adapters = load_file(_last(alone) / "adapter" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.experts.3.up_proj.lora_B.weight"
    assert adapters[name].shape == (16, 4)
    assert adapters[name].abs().max() > 0


@pytest.mark.grid
@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("mixtral", {}),
        ("olmoe", {}),
        ("qwen3_moe", {}),
        ("qwen3_moe", {"decoder_sparse_step": 2}),
    ],
)
@pytest.mark.parametrize("targets", ["all-linear", "down_proj"])
def test_peft_loads_those_of_every_family(family, layers, targets, tmp_path):
    experts = {"num_local_experts": 4} if family == "mixtral" else {"num_experts": 4}
    keys = experts | {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
    tiny.save_family(tmp_path / "student", family, seed=2, **keys | layers)
    tiny.save_qwen3_moe(tmp_path / "teacher", hidden=48, seed=1)
    tiny.save_rows(tmp_path / "rows.jsonl")
    student = f'{LORA}\ntargets = ["{targets}"]'
    changes = CHANGES | {"student": student} | LAYOUTS["expert"]
    run_plan = compile_tiny(tmp_path, tmp_path / "run", **changes)
    run_on_ranks(_run, 2, encode(run_plan), 0)
    _assert_peft_gives_the_merged_logits(_last(tmp_path / "run"), tmp_path / "student")


@pytest.mark.grid
def test_a_resumed_run_is_the_one_that_never_stopped(run):
    changes = LAYOUTS["expert"]
    whole, stopped = run(**changes), run(starts=(0, 2), **changes)
    for name in ("adapter/adapter_model.safetensors", "state/rank_1.safetensors"):
        mine, one = load_file(_last(stopped) / name), load_file(_last(whole) / name)
        assert mine.keys() == one.keys()
        assert all(torch.equal(tensor, one[key]) for key, tensor in mine.items())


def _assert_peft_gives_the_merged_logits(saved: Path, student: Path) -> None:
    base, merged, untouched = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for path in (student, saved / "student", student)
    )
    adapted = PeftModel.from_pretrained(base, saved / "adapter")
    tokens_BS = torch.arange(3, 35).view(2, 16)
    with torch.no_grad():
        expected, found = merged(tokens_BS).logits, adapted(tokens_BS).logits
        before = untouched(tokens_BS).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0.0)
    assert float((expected - before).abs().max()) > 1e-2


def _run(lock: str, start_step: int) -> None:
    Executor(open_silently(lock, start_step)).run(start_step)


def _steps(output: Path) -> list[dict]:
    return [line for line in read_metrics(output / "metrics.jsonl") if "loss" in line]


def _last(output: Path) -> Path:
    return output / "checkpoints" / f"step_{NUM_STEPS}"
