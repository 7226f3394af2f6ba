"""A student that sees and has low-rank adapters: its decoder learns, its eyes stay as they are."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import launched_as_forks, run_on_ranks
from one_step import learn_once
from peft import PeftModel
from safetensors.torch import load_file
from silent_session import open_silently
from test_vision_runs import (
    IN_FLOAT64,
    LEARNING_EYES,
    PLAN,
    TOWER_ALONE,
    learns,
    make_home,
    measured_peaks,
    read_rows,
    textbook_loss,
)
from tiny_plans import compile_plan_text, compile_tiny, plan_text
from tiny_vision import load_reference, reference_inputs

from gkdplan.facts.config import read_shape
from gkdplan.planner.memory.checkpoint import adapter_bytes
from gkdplan.runplan.codec import encode
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.megatron.adapter_files import save_adapters
from gkdplan.runtime.megatron.adapters import draw_adapters
from gkdplan.runtime.megatron.parameters import named_parameters
from gkdplan.runtime.saved.run_directory import read_metrics

NUM_STEPS = 4
LORA = """tuning = "lora"
[student.lora]
rank = 4
alpha = 16.0
targets = ["all-linear"]"""
PROJECTOR = "freeze_projector = false"
CHANGES = {
    "student": LORA,
    "micro": 4,
    "steps": NUM_STEPS,
    "lmbda": 0.4,
    "seq_kd": 0.4,
    "distill": "sampling_temperature = 0.0",
}
LAYOUTS = {
    "alone": {},
    "tensor": {"devices": 2, "tensor": 2},
    "context": {"devices": 2, "parallel": "context = 2"},
    "staged": {"devices": 2, "parallel": "pipeline = 2"},
}
OF_EXPERTS = {
    "alone": {},
    "experts": {"devices": 2, "parallel": "expert = 2"},
    "expert tensor": {"devices": 2, "tensor": 2, "parallel": "expert_tensor = 2"},
    "staged": {"devices": 2, "parallel": "pipeline = 2"},
}
KINDS = [
    pytest.param("llava", marks=pytest.mark.grid),
    "qwen-vl",
    pytest.param("qwen3-vl", marks=pytest.mark.grid),
    pytest.param("internvl", marks=pytest.mark.grid),
    pytest.param("qwen3-vl-moe", marks=pytest.mark.grid),
]

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_the_adapters_of_a_model_that_sees(kind, tmp_path):
    """Two ranks of every axis learn what one process does, and what PEFT makes of it are the logits
    of the merged student, of text with an image."""
    home = make_home(kind, tmp_path)
    layouts = LAYOUTS if kind != "qwen3-vl-moe" else OF_EXPERTS
    runs = [_run(home, tmp_path / name, layout) for name, layout in layouts.items()]
    alone, *_, last = runs
    for run in runs[1:]:
        for mine, one in zip(_steps(run), _steps(alone), strict=True):
            assert mine["loss"] == pytest.approx(one["loss"], abs=1e-5), run.name
            assert mine["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3), run.name
    _assert_only_the_decoder_moved(home / "student", _last(last) / "student")
    _assert_peft_gives_the_merged_logits(home, _last(last))


@pytest.mark.parametrize(
    "layout",
    [n if n == "experts" else pytest.param(n, marks=pytest.mark.grid) for n in OF_EXPERTS],
)
def test_experts_behind_eyes_have_the_gradients_of_peft(layout, tmp_path):
    """Of adapters that are drawn, A and B, in float64, as their files hold them."""
    _check_gradients(make_home("qwen3-vl-moe", tmp_path), LORA, OF_EXPERTS[layout])


@pytest.mark.parametrize(
    ("kind", "eyes", "layout"),
    [
        ("qwen3-vl", LEARNING_EYES, "tensor"),
        pytest.param("qwen3-vl", PROJECTOR, "staged", marks=pytest.mark.grid),
        pytest.param("qwen3-vl-moe", TOWER_ALONE, "experts", marks=pytest.mark.grid),
        pytest.param("llava", LEARNING_EYES, "context", marks=pytest.mark.grid),
        pytest.param("llava", PROJECTOR, "tensor", marks=pytest.mark.grid),
        pytest.param("qwen-vl", TOWER_ALONE, "staged", marks=pytest.mark.grid),
        pytest.param("qwen-vl", LEARNING_EYES, "alone", marks=pytest.mark.grid),
        pytest.param("internvl", LEARNING_EYES, "staged", marks=pytest.mark.grid),
    ],
)
def test_eyes_that_learn_beside_adapters_have_the_gradients_of_peft(kind, eyes, layout, tmp_path):
    """Of the modules that it saves beside them."""
    home = make_home(kind, tmp_path)
    _check_gradients(home, f"{eyes}\n{LORA}", (LAYOUTS | OF_EXPERTS)[layout])


def _check_gradients(home: Path, student: str, layout: dict[str, object]) -> None:
    changes = {**PLAN, "student": student, **layout}
    run_plan = compile_tiny(home, home / "run", **changes)
    run_on_ranks(_compare_with_peft, run_plan.layout.world_size, encode(run_plan))
    (file,) = (home / "run" / "drawn").glob("*.safetensors")
    num_bytes = sum(tensor.nbytes for tensor in load_file(file).values())
    assert num_bytes == adapter_bytes(run_plan.models.student)


def _compare_with_peft(lock: str) -> None:
    session = open_silently(lock)
    chunks, model, mesh = session.student, session.plan.models.student, session.mesh
    draw_adapters(chunks, model, mesh, seed=3, both=True)
    drawn, gradients = (session.directory.path / name for name in ("drawn", "gradients"))
    save_adapters(chunks, model, mesh, drawn)
    state = learn_once(session, 0.5, 1.0)
    with torch.no_grad():
        for _, parameter in named_parameters(chunks, model, mesh):
            if parameter.requires_grad:
                parameter.copy_(parameter.main_grad)
    save_adapters(chunks, model, mesh, gradients)
    if mesh.rank == 0:
        base = load_reference(model.model, **IN_FLOAT64)
        adapted = PeftModel.from_pretrained(base, drawn, is_trainable=True)
        loss = textbook_loss(session.plan, session.train.examples, adapted)
        loss.backward()
        assert abs(state.loss - float(loss)) <= 1e-5 * float(loss)
        values, found = (
            load_file(path / "adapter_model.safetensors") for path in (drawn, gradients)
        )
        expected = {
            re.sub(r"\.(modules_to_save\.)?default\.", ".", name): parameter.grad
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad
        }
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            if not _learns(name, model):
                assert torch.equal(found[name], values[name]), name
                continue
            is_joined = "experts" in name and name.endswith("base_layer.lora_B.weight")
            beside_diagonal = values[name] == 0 if is_joined else torch.zeros((), dtype=torch.bool)
            learnt = gradient.masked_fill(beside_diagonal, 0)
            error = (found[name].double() - learnt).norm()
            assert error <= 1e-5 * learnt.norm() + 1e-9, f"{name} is off by {error}"
    dist.barrier()


def _learns(name: str, model: ModelPlan) -> bool:
    """Of a name in PEFT's file."""
    vision, own = model.shape.vision, name.removeprefix("base_model.model.model.")
    return not own.startswith(vision.prefixes) or learns(own, model.freeze, vision)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("llava", "alone"),
        *(pytest.param("qwen3-vl-moe", n, marks=pytest.mark.grid) for n in ("experts", "staged")),
    ],
)
def test_adapters_of_a_model_that_sees_need_what_the_ledger_says(kind, layout, tmp_path):
    with launched_as_forks():
        home = make_home(kind, tmp_path)
        (tmp_path / "filled").mkdir()
        changes = {**PLAN, **OF_EXPERTS[layout], "student": LORA}
        ratios = measured_peaks(home, tmp_path / "filled", **changes)
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.1)


def test_a_teacher_that_is_the_base_sees_without_a_second_copy(tmp_path):
    """The same losses and adapters as beside a copy on the host. What moves the student from its
    base is the cross-entropy."""
    home = make_home("qwen-vl", tmp_path)
    (tmp_path / "base").mkdir()
    for name in ("student", "teacher"):
        (tmp_path / "base" / name).symlink_to(home / "student")
    (tmp_path / "base" / "rows.jsonl").symlink_to(home / "rows.jsonl")
    runs = []
    for offload in ("none", "cpu"):
        changes = CHANGES | {
            "offload": offload,
            "teacher": f'model = "{home}/base/student"',
            "distill": "sft_alpha = 0.5",
        }
        text = plan_text(tmp_path / "base", tmp_path / offload, **changes)
        run_plan = compile_plan_text(text.replace(f'model = "{tmp_path}/base/teacher"\n', "", 1))
        assert run_plan.models.teacher.is_students_base is (offload == "none")
        run_on_ranks(_execute, 1, encode(run_plan))
        runs.append(tmp_path / offload)
    of_base, of_copy = (_steps(run) for run in runs)
    assert [one["loss"] for one in of_base] == [one["loss"] for one in of_copy]
    assert max(one["loss"] for one in of_base) > 0
    base, copy = (load_file(_last(run) / "adapter" / "adapter_model.safetensors") for run in runs)
    assert all(torch.equal(tensor, copy[name]) for name, tensor in base.items())


def _run(home: Path, output: Path, layout: dict[str, object]) -> Path:
    run_plan = compile_tiny(home, output, **CHANGES | layout)
    run_on_ranks(_execute, run_plan.layout.world_size, encode(run_plan))
    adapters = load_file(_last(output) / "adapter" / "adapter_model.safetensors")
    num_learnt = sum(int(torch.count_nonzero(factor)) for factor in adapters.values())
    assert num_learnt == run_plan.models.student.lora.num_parameters
    return output


def _execute(lock: str) -> None:
    Executor(open_silently(lock)).run(0)


def _assert_only_the_decoder_moved(before: Path, after: Path) -> None:
    old, new = (load_file(path / "model.safetensors") for path in (before, after))
    assert old.keys() == new.keys()
    for name, tensor in new.items():
        is_of_eyes = any(part in name for part in ("vision_tower", "visual", "projector"))
        is_adapted = re.search(r"_proj(\.weight)?$", name) is not None and not is_of_eyes
        assert torch.equal(tensor, old[name]) != is_adapted, name


def _assert_peft_gives_the_merged_logits(home: Path, saved: Path) -> None:
    student = home / "student"
    base, untouched = (load_reference(student, dtype=torch.float64) for _ in range(2))
    adapted = PeftModel.from_pretrained(base, saved / "adapter")
    with_adapters = [name for name, module in adapted.named_modules() if hasattr(module, "lora_A")]
    assert with_adapters
    assert all(".language_model." in name for name in with_adapters), "and none in the tower"
    merged = load_reference(saved / "student", dtype=torch.float64)
    example = next(one for one in read_rows(home, student) if one.shown)
    tokens, pictures = (
        (*example.prompt, *example.response),
        [one.picture.path for one in example.shown],
    )
    shape, _ = read_shape(json.loads((student / "config.json").read_text()), "config")
    inputs = reference_inputs(student, tokens, pictures, shape.vision.image_token_id)
    with torch.no_grad():
        expected, found, before = (m(**inputs).logits for m in (merged, adapted, untouched))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0.0)
    assert float((expected - before).abs().max()) > 1e-3


def _steps(output: Path) -> list[dict]:
    return [line for line in read_metrics(output / "metrics.jsonl") if "loss" in line]


def _last(output: Path) -> Path:
    return output / "checkpoints" / f"step_{NUM_STEPS}"
