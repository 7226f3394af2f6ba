"""Runs of twenty steps on two and four processes, along every axis: each is the run of one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from safetensors.torch import load_file
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics

NUM_STEPS = 20
LENGTH = {"steps": NUM_STEPS, "save_interval": NUM_STEPS, "micro": 4}
GREEDY = "sampling_temperature = 0.0"
"""So that no draw falls to another token by a rounding error."""
SOURCES = {"lmbda": 0.3, "seq_kd": 0.5, "distill": GREEDY}
DATASET = {"lmbda": 0.0, "seq_kd": 0.0}
UNIFORM = 'granularity = "full"\nmethod = "uniform"\nnum_layers = 1'
BLOCK = 'granularity = "full"\nmethod = "block"\nnum_layers = 1'
SELECTIVE = 'granularity = "selective"\nmodules = ["core_attn", "layernorm", "mlp"]'
EXPERTS = 'granularity = "selective"\nmodules = ["moe"]'
TWO, FOUR = {"devices": 2}, {"devices": 4}
TENSOR_OVER_PIPELINE = FOUR | {"tensor": 2, "parallel": "pipeline = 2"}
LAYOUTS = {
    "dense": {
        "pipeline": {"parallel": "pipeline = 2"},
        "uneven pipeline": {"parallel": "pipeline = 2\nlast_stage_layers = 1", "offload": "cpu"},
        "virtual pipeline": {"parallel": "pipeline = 2\nvirtual_pipeline = 2", "payload": "logits"},
        "context": {"parallel": "context = 2"},
        "context, replicated optimizer": {"parallel": "context = 2", "distributed": "false"},
        "pipeline, block recompute": {"parallel": "pipeline = 2", "recompute": BLOCK},
        "tensor, uniform recompute": {"tensor": 2, "recompute": UNIFORM},
        "data, selective recompute": {"micro": 2, "recompute": SELECTIVE},
        "data, a teacher over tensor": {"micro": 2, "teacher": "[teacher.parallel]\ntensor = 2"},
        "context, a teacher in stages, logits": {"parallel": "context = 2", "payload": "logits"}
        | {"teacher": "[teacher.parallel]\npipeline = 2"},
        "tensor over pipeline": TENSOR_OVER_PIPELINE,
        "tensor over uneven pipeline": FOUR
        | {"tensor": 2, "parallel": "pipeline = 2\nfirst_stage_layers = 1", "offload": "cpu"},
        "tensor over pipeline, a teacher over tensor": TENSOR_OVER_PIPELINE
        | {"teacher": "[teacher.parallel]\ntensor = 4"},
        "data over virtual pipeline": FOUR
        | {"micro": 2, "parallel": "pipeline = 2\nvirtual_pipeline = 2"},
        "context over tensor": FOUR | {"tensor": 2, "parallel": "context = 2"},
        "context over data, a teacher over pipeline and tensor": FOUR
        | {"micro": 2, "parallel": "context = 2"}
        | {"teacher": "[teacher.parallel]\ntensor = 2\npipeline = 2"},
    },
    "experts": {
        "data": {"micro": 2},
        "expert, recomputed experts": {"parallel": "expert = 2", "recompute": EXPERTS},
        "expert over tensor": {"tensor": 2, "parallel": "expert = 2"},
        "expert over context": {"parallel": "context = 2\nexpert = 2"},
        "expert tensor": {"tensor": 2, "parallel": "expert_tensor = 2"},
        "pipeline, uniform recompute": {"parallel": "pipeline = 2", "recompute": UNIFORM},
        "expert over pipeline": FOUR | {"micro": 2, "parallel": "expert = 2\npipeline = 2"},
        "expert over data": FOUR | {"micro": 2, "parallel": "expert = 2"},
        "expert, expert tensor and tensor": FOUR
        | {"tensor": 2, "parallel": "expert = 2\nexpert_tensor = 2"},
    },
    "experts in some layers": {
        "first stage without experts": {"parallel": "pipeline = 2"},
        "expert over tensor, dropped gradients": {"tensor": 2, "parallel": "expert = 2"}
        | {"student": 'offload = "grads"', "optimizer": 'offload = "cpu"'},
        "expert over virtual pipeline": FOUR
        | {"micro": 2, "parallel": "expert = 2\npipeline = 2\nvirtual_pipeline = 2"},
    },
    "a dense teacher of experts": {
        "expert": {"parallel": "expert = 2", "teacher": "[teacher.parallel]\ntensor = 1"},
    },
}
IN_EVERY_RUN = {
    "tensor over uneven pipeline",
    "virtual pipeline",
    "context, replicated optimizer",
    "data, a teacher over tensor",
    "expert, recomputed experts",
    "expert tensor",
    "expert",
}
"""The other runs go with `pytest -m grid`."""
CASES = [
    pytest.param(models, layout, marks=() if layout in IN_EVERY_RUN else pytest.mark.grid)
    for models, layouts in LAYOUTS.items()
    for layout in layouts
]


@dataclass(frozen=True)
class Record:
    """What a finished run left behind."""

    steps: list[dict]
    evaluations: list[dict]
    completions: list[str]
    student: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> dict[str, Path]:
    homes = {models: tmp_path_factory.mktemp(models) for models in LAYOUTS}
    tiny.save_qwen3(homes["dense"] / "teacher", num_layers=4, hidden=48, seed=1)
    tiny.save_llama(homes["dense"] / "student", num_layers=4, hidden=32, seed=2)
    tiny.save_qwen3_moe(homes["experts"] / "teacher", num_layers=2, hidden=48, seed=1)
    tiny.save_qwen3_moe(homes["experts"] / "student", num_layers=2, hidden=32, seed=2)
    mixed = homes["experts in some layers"]
    tiny.save_qwen3_moe(mixed / "teacher", num_layers=4, hidden=48, dense=(0, 3), seed=1)
    tiny.save_qwen3_moe(mixed / "student", num_layers=4, hidden=32, dense=(0, 1), seed=2)
    for role, models in (("teacher", "dense"), ("student", "experts")):
        (homes["a dense teacher of experts"] / role).symlink_to(homes[models] / role)
    for home in homes.values():
        tiny.save_rows(home / "rows.jsonl")
    return homes


@pytest.fixture(scope="module")
def record(homes, tmp_path_factory) -> Callable[..., Record]:
    def run(models: str, **changes: object) -> Record:
        output = tmp_path_factory.mktemp("runs") / "run"
        changes = LENGTH | SOURCES | changes
        run_plan = compile_tiny(homes[models], output, **changes)
        run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan))
        lines = read_metrics(output / "metrics.jsonl")
        checkpoint = output / "checkpoints" / f"step_{NUM_STEPS}"
        return Record(
            steps=[line for line in lines if "loss" in line],
            evaluations=[line["eval"] for line in lines if "eval" in line],
            completions=sorted((output / "completions.jsonl").read_text().splitlines()),
            student=load_file(checkpoint / "student" / "model.safetensors"),
            state=load_file(checkpoint / "state" / "rank_0.safetensors"),
        )

    return run


@pytest.fixture(scope="module")
def alone(record) -> dict[str, Record]:
    """The same run on one process."""
    return {models: record(models) for models in LAYOUTS}


@pytest.fixture(scope="module")
def alone_on_the_dataset(record) -> Record:
    return record("dense", **DATASET)


@pytest.mark.parametrize(("models", "layout"), CASES)
def test_the_run_is_that_of_one_process(models, layout, record, alone):
    found, expected = record(models, **TWO | LAYOUTS[models][layout]), alone[models]
    assert len(found.steps) == len(expected.steps) == NUM_STEPS
    assert {line["source"] for line in found.steps} == {"student", "teacher", "dataset"}
    for mine, one in zip(found.steps, expected.steps, strict=True):
        assert (mine["source"], mine["num_tokens"]) == (one["source"], one["num_tokens"])
        assert mine["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    for mine, one in zip(found.evaluations, expected.evaluations, strict=True):
        assert mine == pytest.approx(one, abs=1e-4)
    assert found.completions == expected.completions
    assert found.student.keys() == expected.student.keys()
    for name, tensor in found.student.items():
        assert torch.allclose(tensor, expected.student[name], atol=1e-3), name


@pytest.mark.parametrize(
    "layout",
    ["pipeline", pytest.param("context, replicated optimizer", marks=pytest.mark.grid)],
)
def test_a_run_in_bf16_learns_what_one_in_fp32_does(layout, record, alone_on_the_dataset):
    """bf16 keeps 8 bits: of a loss of 0.2 that is 8e-4."""
    found = record("dense", dtype="bf16", **TWO, **DATASET, **LAYOUTS["dense"][layout])
    for mine, one in zip(found.steps, alone_on_the_dataset.steps, strict=True):
        assert mine["loss"] == pytest.approx(one["loss"], abs=2e-3)
    assert {tensor.dtype for tensor in found.student.values()} == {torch.bfloat16}
    mains = {t.dtype for name, t in found.state.items() if name.startswith("main.")}
    assert mains == {torch.float32}


def _run(lock: str) -> None:
    session = open_silently(lock)
    summary = Executor(session).run(0)
    summaries = [summary] * dist.get_world_size()
    dist.all_gather_object(summaries, summary["samples"])
    assert all(samples == summaries[0] for samples in summaries)
