"""Runs of a student with low-rank adapters: in every layout that of one process, saved as PEFT
loads it, merged as transformers does, and gone on with exactly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from peft import PeftModel
from safetensors.torch import load_file
from settled_collectives import settled
from silent_session import open_silently
from tiny_latents import GROUPS, LATENTS
from tiny_plans import compile_plan_text, compile_tiny, plan_text
from transformers import AutoModelForCausalLM

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.vocab import Phase

NUM_STEPS = 6
LORA = 'tuning = "lora"\n[student.lora]\nrank = 4\nalpha = 16.0\ntargets = {targets}'
ALL = LORA.format(targets='["all-linear"]')
SOME = LORA.format(targets='["v_proj", "o_proj", "up_proj"]')
CHANGES = {
    "student": ALL,
    "micro": 4,
    "steps": NUM_STEPS,
    "save_interval": 3,
    "lmbda": 0.4,
    "seq_kd": 0.4,
    "distill": "sampling_temperature = 0.0",
}
TWO, FOUR = {"devices": 2}, {"devices": 4}
RECOMPUTED = 'granularity = "full"\nmethod = "uniform"\nnum_layers = 1'
LAYOUTS = {
    "tensor": TWO | {"tensor": 2},
    "tensor, recomputed": TWO | {"tensor": 2, "recompute": RECOMPUTED},
    "pipeline": TWO | {"parallel": "pipeline = 2"},
    "context": TWO | {"parallel": "context = 2"},
    "data": TWO | {"micro": 2},
    "tensor over virtual pipeline": FOUR
    | {"tensor": 2, "parallel": "pipeline = 2\nvirtual_pipeline = 2"},
    "tensor over context": FOUR | {"tensor": 2, "parallel": "context = 2"},
}
IN_EVERY_RUN = {"tensor over virtual pipeline", "context"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=48, seed=1)
    tiny.save_qwen2(home / "student", num_layers=4, hidden=32, seed=2)
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


@pytest.mark.parametrize(
    "layout",
    [pytest.param(n, marks=() if n in IN_EVERY_RUN else pytest.mark.grid) for n in LAYOUTS],
)
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


@pytest.mark.parametrize("student", [ALL, SOME])
def test_peft_loads_the_adapters_and_gives_the_merged_students_logits(student, run, home):
    saved = _last(run(student=student))
    _assert_peft_gives_the_merged_logits(saved, home / "student")
    assert json.loads((saved / "adapter" / "adapter_config.json").read_text())["r"] == 4


def _assert_peft_gives_the_merged_logits(saved: Path, student: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, saved / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(saved / "student", dtype=torch.float32)
    untouched = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    tokens_BS = torch.arange(3, 35).view(2, 16)
    with torch.no_grad():
        expected, found = merged(tokens_BS).logits, adapted(tokens_BS).logits
        before = untouched(tokens_BS).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0.0)
    assert float((expected - before).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("family", "layout"),
    [("phi3", TWO | {"tensor": 2}), pytest.param("glm4", {}, marks=pytest.mark.grid)],
)
def test_peft_loads_the_adapters_of_fused_projections(family, layout, tmp_path):
    """One A of each matrix that the family's checkpoint has."""
    keys = {"pad_token_id": 0} if family == "phi3" else {"head_dim": 8}
    tiny.save_family(tmp_path / "student", family, num_layers=2, seed=2, **keys)
    tiny.save_qwen3(tmp_path / "teacher", num_layers=2, hidden=48, seed=1)
    tiny.save_rows(tmp_path / "rows.jsonl")
    run_plan = compile_tiny(tmp_path, tmp_path / "run", **CHANGES | layout)
    run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan), 0)
    saved = _last(tmp_path / "run")
    adapters = load_file(saved / "adapter" / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1.mlp.gate_up_proj"
    assert adapters[f"{stem}.lora_A.weight"].shape == (4, 32)
    assert adapters[f"{stem}.lora_B.weight"].shape == (2 * 48, 4)
    assert sum(map(torch.numel, adapters.values())) == run_plan.models.student.lora.num_parameters
    _assert_peft_gives_the_merged_logits(saved, tmp_path / "student")


V2_LITE = {"q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1}


@pytest.mark.parametrize(
    ("family", "keys", "targets", "layout"),
    [
        (
            "deepseek_v3",
            GROUPS,
            ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
            TWO | {"tensor": 2, "parallel": "expert = 2"},
        ),
        pytest.param(
            "deepseek_v2",
            V2_LITE,
            ("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
            FOUR | {"parallel": "context = 2\npipeline = 2", "micro": 2},
            marks=pytest.mark.grid,
        ),
    ],
    ids=("deepseek_v3", "deepseek_v2"),
)
def test_peft_loads_the_adapters_of_maps_to_and_from_latents(
    family, keys, targets, layout, tmp_path
):
    tiny.save_family(tmp_path / "student", family, num_layers=2, seed=2, **LATENTS | keys)
    tiny.save_qwen3(tmp_path / "teacher", num_layers=2, hidden=48, seed=1)
    tiny.save_rows(tmp_path / "rows.jsonl")
    teacher = "[teacher.parallel]\ntensor = 1"
    changes = {"student": LORA.format(targets=json.dumps(targets)), "prefetch": teacher}
    run_plan = compile_tiny(tmp_path, tmp_path / "run", **CHANGES | changes | layout)
    run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan), 0)
    saved = _last(tmp_path / "run")
    adapters = load_file(saved / "adapter" / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1.self_attn.kv_a_proj_with_mqa"
    assert adapters[f"{stem}.lora_A.weight"].shape == (4, 32)
    assert adapters[f"{stem}.lora_B.weight"].shape == (16, 4)
    assert sum(map(torch.numel, adapters.values())) == run_plan.models.student.lora.num_parameters
    _assert_peft_gives_the_merged_logits(saved, tmp_path / "student")


def test_only_the_adapted_weights_move(run, home, alone):
    before, after = (
        load_file(path / "model.safetensors")
        for path in (home / "student", _last(alone) / "student")
    )
    for name, tensor in after.items():
        is_adapted = name.endswith("_proj.weight")
        assert torch.equal(tensor, before[name]) != is_adapted, name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_is_the_one_that_never_stopped(dropout, run):
    changes = {"student": f"{ALL}\ndropout = {dropout}", **TWO, "micro": 2}
    whole, stopped = run(**changes), run(starts=(0, 3), **changes)
    for name in ("adapter/adapter_model.safetensors", "state/rank_1.safetensors"):
        mine, one = load_file(_last(stopped) / name), load_file(_last(whole) / name)
        assert mine.keys() == one.keys()
        assert all(torch.equal(tensor, one[key]) for key, tensor in mine.items())


@pytest.mark.parametrize("layout", [{}, pytest.param(TWO | {"tensor": 2}, marks=pytest.mark.grid)])
def test_a_teacher_that_is_the_base_needs_no_second_copy(layout, tmp_path_factory):
    """The same losses, samples and adapters as beside a copy on the host."""
    home = tmp_path_factory.mktemp("base")
    tiny.save_qwen2(home / "student", num_layers=4, hidden=96, ffn=256, seed=2)
    (home / "teacher").symlink_to(home / "student")
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    filled = {"prompt": 40, "completion": 24, "truncation": "right", "held_out": "[]"}
    learning = {"distill": f"{CHANGES['distill']}\nsft_alpha = 1.0"}
    changes = CHANGES | filled | learning | {"teacher": f'model = "{home}/student"'} | layout
    outputs = []
    for offload in ("none", "cpu"):
        output = tmp_path_factory.mktemp("runs") / "run"
        text = plan_text(home, output, **changes | {"offload": offload})
        text = text.replace(f'model = "{home}/teacher"\n', "", 1)
        run_plan = compile_plan_text(text)
        assert run_plan.models.teacher.is_students_base is (offload == "none")
        run_on_ranks(_run_settled, run_plan.layout.world_size, encode(run_plan))
        outputs.append(output)
        rows = run_plan.ledger.classes[0].phases[Phase.TEACHER].rows
        assert ("teacher body" in rows) is (offload == "cpu")
        measured = _steps(output)[1]["peak_bytes"]
        for phase in (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER):
            planned = run_plan.ledger.phase_peaks[phase]
            assert measured[phase] == pytest.approx(planned, rel=0.02), (offload, phase)
    base, beside = outputs
    assert [s["loss"] for s in _steps(base)] == [s["loss"] for s in _steps(beside)]
    assert max(s["loss"] for s in _steps(base)) > 0
    files = ("completions.jsonl", f"checkpoints/step_{NUM_STEPS}/adapter/adapter_model.safetensors")
    for file in files:
        assert (base / file).read_bytes() == (beside / file).read_bytes()


def _run_settled(lock: str) -> None:
    with settled():
        _run(lock, 0)


def _run(lock: str, start_step: int) -> None:
    Executor(open_silently(lock, start_step)).run(start_step)


def _steps(output: Path) -> list[dict]:
    return [line for line in read_metrics(output / "metrics.jsonl") if "loss" in line]


def _last(output: Path) -> Path:
    return output / "checkpoints" / f"step_{NUM_STEPS}"
