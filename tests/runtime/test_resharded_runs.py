"""A run that goes on in another layout has the state that it had, and learns what it would have."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from safetensors.torch import load_file
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode, seal
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.claim import open_run_directory
from gkdplan.runtime.saved.run_directory import RunDirectory, read_metrics

TENSOR, DATA = {"devices": 2, "tensor": 2}, {"devices": 2}
STAGES = {"devices": 2, "parallel": "pipeline = 2"}
INTERLEAVED = {"devices": 2, "parallel": "pipeline = 2\nvirtual_pipeline = 2"}
UNEVEN = {"devices": 2, "parallel": "pipeline = 2\nfirst_stage_layers = 1"}
CONTEXT = {"devices": 2, "parallel": "context = 2"}
EXPERTS = {"devices": 2, "parallel": "expert = 2"}
EXPERT_TENSOR = {"devices": 2, "tensor": 2, "parallel": "expert_tensor = 2"}
ONE = {"devices": 1}
REPLICATED = {"distributed": "false"}
BF16 = {"dtype": "bf16"}
AVERAGE = {"teacher_model": 'self = "ema"\ndecay = 0.5', "distill": "sft_alpha = 1.0"}
LORA = {"student": 'tuning = "lora"\n[student.lora]\nrank = 4\ndropout = 0.1'}

PAIRS = {
    "tensor, tied stages": ("tied", TENSOR, STAGES),
    "tensor, one process, bf16": ("tied", TENSOR | BF16, ONE | BF16),
    "data, interleaved, bf16": ("tied", DATA | BF16, INTERLEAVED | BF16),
    "data, replicated": ("tied", DATA, DATA | REPLICATED),
    "context, uneven stages": ("tied", CONTEXT, UNEVEN),
    "average: data, tensor, bf16": ("tied", DATA | AVERAGE | BF16, TENSOR | AVERAGE | BF16),
    "adapters: tensor, stages": ("tied", TENSOR | LORA, STAGES | LORA),
    "adapters: data, one process": ("tied", DATA | LORA, ONE | LORA),
    "experts: expert, stages": ("experts", EXPERTS, STAGES),
    "experts: expert tensor, expert": ("experts", EXPERT_TENSOR, EXPERTS),
    "experts: expert, one process": ("experts", EXPERTS, ONE),
}
IN_EVERY_RUN = {
    "tensor, tied stages",
    "data, interleaved, bf16",
    "average: data, tensor, bf16",
    "adapters: tensor, stages",
    "experts: expert tensor, expert",
}
CASES = [
    pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.grid) for name in PAIRS
]
DATASET = {"held_out": "[]", "rows": 4, "micro": 2, "steps": 4, "save_interval": 2}


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> dict[str, Path]:
    homes = {name: tmp_path_factory.mktemp(name) for name in ("tied", "experts")}
    tiny.save_llama(homes["tied"] / "teacher", num_layers=4, seed=1)
    tiny.save_qwen2(homes["tied"] / "student", num_layers=4, seed=2)
    tiny.save_qwen3_moe(homes["experts"] / "teacher", seed=1)
    tiny.save_qwen3_moe(homes["experts"] / "student", seed=2)
    for home in homes.values():
        tiny.save_rows(home / "rows.jsonl")
    return homes


@pytest.mark.parametrize("pair", CASES)
def test_state_that_went_through_another_layout_comes_back_bit_by_bit(pair, homes, tmp_path):
    models, first, other = PAIRS[pair]
    home, places = homes[models], [tmp_path / name for name in ("first", "other", "again")]
    layouts = [compile_tiny(home, places[0], **DATASET | layout) for layout in (first, other)]
    _on_ranks(_run, layouts[0], 0, 2)
    for run_plan, source, target in zip((layouts[1], layouts[0]), places, places[1:], strict=False):
        _on_ranks(_save_again, _into(run_plan, source), 2, str(target))
    saved, again = (_state(place / "checkpoints" / "step_2") for place in (places[0], places[2]))
    assert saved.keys() == again.keys()
    assert sum(len(tensors) for tensors in saved.values()) > 20
    for file, tensors in saved.items():
        assert tensors.keys() == again[file].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, again[file][name]), (file, name)


LONG = {"steps": 20, "save_interval": 5, "micro": 2, "rows": 8}
GREEDY = {"lmbda": 0.3, "seq_kd": 0.5, "distill": "sampling_temperature = 0.0"}
CHAIN = (TENSOR, STAGES, DATA, ONE)


@pytest.mark.grid
def test_a_run_through_four_layouts_is_that_of_one_process(homes, tmp_path):
    """The bounds are those of a run in another layout from its first step."""
    for number, layout in enumerate(CHAIN):
        run_plan = compile_tiny(homes["tied"], tmp_path / "run", **LONG | GREEDY | layout)
        with open_run_directory(run_plan, "auto") as (_, start_step, found):
            assert start_step == 5 * number
            assert [d.code for d in found] == ["GK539"] * bool(number)
        _on_ranks(_run, run_plan, start_step, start_step + 5)
    whole = compile_tiny(homes["tied"], tmp_path / "whole", **LONG | GREEDY | ONE)
    _on_ranks(_run, whole, 0, 20)
    lines, expected = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("run", "whole"))
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for mine, one in zip(lines, expected, strict=True):
        if "loss" in mine:
            assert (mine["source"], mine["num_tokens"]) == (one["source"], one["num_tokens"])
            assert mine["loss"] == pytest.approx(one["loss"], abs=1e-4)
            assert mine["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    assert {line.get("source") for line in lines} >= {"student", "teacher", "dataset"}
    student, reference = (_student(tmp_path / name, 20) for name in ("run", "whole"))
    assert student.keys() == reference.keys()
    for name, tensor in student.items():
        assert torch.allclose(tensor, reference[name], atol=1e-3), name


def test_what_changes_no_arithmetic_changes_no_bit(homes, tmp_path):
    """Two ranks sum two gradients, whichever of them keeps the state; without clipping, whose norm
    would be summed in another order."""
    changes = DATASET | DATA | {"optimizer": "clip_grad = 0.0"}
    for start, layout in ((0, {}), (2, REPLICATED)):
        run_plan = compile_tiny(homes["tied"], tmp_path / "run", **changes | layout)
        _on_ranks(_run, run_plan, start, start + 2)
    _on_ranks(_run, compile_tiny(homes["tied"], tmp_path / "whole", **changes), 0, 4)
    student, reference = (_student(tmp_path / name, 4) for name in ("run", "whole"))
    for name, tensor in student.items():
        assert torch.equal(tensor, reference[name]), name


def _into(run_plan: RunPlan, output: Path) -> RunPlan:
    return seal(replace(run_plan, training=replace(run_plan.training, output=str(output))))


def _on_ranks(function, run_plan: RunPlan, *arguments: object) -> None:
    run_on_ranks(function, run_plan.layout.world_size, encode(run_plan), *arguments)


def _run(lock: str, start_step: int, last_step: int) -> None:
    session = open_silently(lock, start_step)
    executor = Executor(session)
    if start_step == 0:
        executor._evaluate_before_training()
    for step in range(start_step + 1, last_step + 1):
        executor._run_step(step)
    session.metrics.close()


def _save_again(lock: str, step: int, output: str) -> None:
    """What a session has when it begins to go on."""
    session = open_silently(lock, step)
    executor = Executor(replace(session, directory=RunDirectory(Path(output))))
    executor._save(executor.plan.steps[-1], step)


def _state(checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Of each rank, and the student; random states begin anew in another layout."""
    return {
        str(file.relative_to(checkpoint)): {
            name: tensor
            for name, tensor in load_file(file).items()
            if not name.startswith("random.")
        }
        for file in sorted(checkpoint.rglob("*.safetensors"))
    }


def _student(output: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(output / "checkpoints" / f"step_{step}" / "student" / "model.safetensors")
