"""A student that learns from itself: from the weights that it began with, or their average."""

import shutil
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from safetensors.torch import load_file
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.vocab import Phase

DECAY, NUM_STEPS = 0.75, 4
EMA = {"teacher_model": f'self = "ema"\ndecay = {DECAY}'}
INITIAL = {"teacher_model": 'self = "initial"'}
LEARNS = {"distill": "sft_alpha = 1.0", "steps": NUM_STEPS, "rows": 8, "held_out": "[]"}
TWO = {"devices": 2}
TENSOR, PIPELINE = TWO | {"tensor": 2}, TWO | {"parallel": "pipeline = 2"}
LAYOUTS = {
    "one process": {},
    "bf16": {"dtype": "bf16"},
    "tensor": TENSOR,
    "pipeline": PIPELINE,
    "tensor, on the host": TENSOR | {"offload": "cpu"},
    "pipeline, bf16, on the host": PIPELINE | {"dtype": "bf16", "offload": "cpu"},
    "data": TWO,
    "data, bf16": TWO | {"dtype": "bf16"},
    "data, bf16, on the host": TWO | {"dtype": "bf16", "offload": "cpu"},
    "data, bf16, replicated": TWO | {"dtype": "bf16", "distributed": "false"},
}
IN_EVERY_RUN = {"one process", "tensor, on the host", "data, bf16", "pipeline, bf16, on the host"}
CASES = [
    pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.grid) for name in LAYOUTS
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A student with tied ends, which a pipeline has twice."""
    home = tmp_path_factory.mktemp("itself")
    tiny.save_qwen2(home / "student", num_layers=2, seed=2)
    tiny.save_rows(home / "rows.jsonl")
    return home


@pytest.mark.parametrize("name", CASES)
def test_the_teacher_is_the_average_of_its_students_main_weights(name, home, tmp_path):
    """Beside a float64 average of the float32 main weights that each step leaves."""
    run_plan = compile_tiny(home, tmp_path / "run", **LEARNS | EMA | LAYOUTS[name])
    run_on_ranks(_average_beside_float64, run_plan.layout.world_size, encode(run_plan))


def _average_beside_float64(lock: str) -> None:
    session = open_silently(lock)
    executor, dtype = Executor(session), session.student[0].config.params_dtype
    expected = {name: weight.double() for name, weight in _main_weights(session).items()}
    start = {name: weight.clone() for name, weight in expected.items()}
    with settled():
        for step in range(1, NUM_STEPS + 1):
            executor._run_step(step)
            for name, weight in _main_weights(session).items():
                expected[name] = DECAY * expected[name] + (1 - DECAY) * weight.double()
    homes, frozen = _homes(session), _frozen(session)
    assert homes.keys() == expected.keys() | frozen.keys()
    assert all(torch.equal(homes[name], weight) for name, weight in frozen.items())
    for name, weight in expected.items():
        moved = (weight - start[name]).abs().max()
        is_seen = not name.endswith("k_proj.bias")  # a softmax does not see what all scores share
        assert moved > 1e-3 or not is_seen, f"{name} hardly moved: {moved}"
        error = (homes[name].double() - weight).abs()
        limit = 1e-6 if dtype is torch.float32 else 2.0**-8 * weight.abs() + 1e-6
        assert (error <= limit).all(), (name, float(error.max()))
    assert all(weight.dtype is dtype for weight in homes.values())


def _main_weights(session) -> dict[str, torch.Tensor]:
    """Of each parameter of this rank's chunks, float32, brought together over the data axis."""
    names = {
        parameter: f"{index}.{name}"
        for index, chunk in enumerate(session.student)
        for name, parameter in chunk.named_parameters()
    }
    found = {}
    for piece in session.trainer.main_pieces():
        whole = torch.zeros(piece.parameter.numel())
        if piece.main is not None:
            whole[piece.start : piece.stop] = piece.main.detach().view(-1)
        if piece.group is not None:
            dist.all_reduce(whole, group=piece.group)
        found[names[piece.parameter]] = whole.view(piece.parameter.shape)
    return found


def _frozen(session) -> dict[str, torch.Tensor]:
    """What the student keeps as it is."""
    return {
        f"{index}.{name}": parameter
        for index, chunk in enumerate(session.student)
        for name, parameter in chunk.named_parameters()
        if not parameter.requires_grad
    }


def _homes(session) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": session.residency.home_of(parameter)
        for index, chunk in enumerate(session.teacher)
        for name, parameter in chunk.named_parameters()
    }


def _steps(output: Path) -> list[dict]:
    return [line for line in read_metrics(output / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize("name", ["one process", "data, bf16", "tensor, on the host"])
def test_a_resumed_average_is_the_one_that_never_stopped(name, home, tmp_path):
    changes = LEARNS | EMA | LAYOUTS[name] | {"save_interval": 2}
    outputs = tmp_path / "whole", tmp_path / "stopped"
    for output, starts in zip(outputs, ((0,), (0, 2)), strict=True):
        run_plan = compile_tiny(home, output, **changes)
        for start in starts:
            run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan), start)
            if start != starts[-1]:
                shutil.rmtree(output / "checkpoints" / f"step_{NUM_STEPS}")
    whole, stopped = outputs
    losses = [[line["loss"] for line in _steps(output)] for output in outputs]
    assert losses[1] == losses[0]
    files = sorted((whole / "checkpoints" / f"step_{NUM_STEPS}").rglob("*.safetensors"))
    names = {name for file in files for name in load_file(file)}
    assert any(name.startswith("average.") for name in names)
    for file in files:
        found, expected = load_file(stopped / file.relative_to(whole)), load_file(file)
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items()), file


def _run(lock: str, start_step: int) -> None:
    session = open_silently(lock, start_step)
    with settled():
        Executor(session).run(start_step)


@pytest.mark.parametrize("name", ["tensor", "pipeline"])
def test_every_layout_averages_alike(name, home, tmp_path):
    """The losses of later steps depend on the average."""
    losses = []
    for layout in ("one process", name):
        output = tmp_path / layout.replace(" ", "_")
        run_plan = compile_tiny(home, output, **LEARNS | EMA | LAYOUTS[layout])
        run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan), 0)
        losses.append([line["loss"] for line in _steps(output)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": 2, "rows": 8}


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"dtype": "bf16"},
        {"dtype": "bf16", "offload": "cpu"},
        TWO | {"dtype": "bf16"},
        TENSOR,
    ],
    ids=["fp32", "bf16", "bf16, on the host", "data, bf16", "tensor"],
)
def test_the_ledger_counts_the_average(layout, tmp_path):
    home = tmp_path
    tiny.save_llama(home / "student", num_layers=4, hidden=128, ffn=384, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    run_plan = compile_tiny(home, home / "run", **LEARNS | FILLED | EMA | layout)
    run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan), 0)
    planned, measured = run_plan.ledger.phase_peaks, _steps(home / "run")[1]["peak_bytes"]
    rows = run_plan.ledger.classes[0].phases[Phase.TEACHER].rows
    is_apart = layout.get("dtype") == "bf16" and "offload" not in layout
    assert ("teacher average" in rows) is is_apart
    errors = {
        phase: measured[phase] / planned[phase] - 1
        for phase in (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER)
    }
    assert all(abs(error) <= 0.02 for error in errors.values()), errors


@pytest.mark.parametrize(
    "start",
    ['init = "random"', 'init = "layers"\n[student.keep]\nlayers = [1]', ""],
    ids=["random", "layers", "pretrained"],
)
def test_the_initial_teacher_has_the_weights_that_the_student_began_with(start, home, tmp_path):
    changes = LEARNS | INITIAL | {"student": start, "offload": "cpu"}
    run_plan = compile_tiny(home, tmp_path / "run", **changes)
    run_on_ranks(_initial_stays, 1, encode(run_plan), str(tmp_path / "kept.safetensors"))


def _initial_stays(lock: str, file: str) -> None:
    session = open_silently(lock)
    start = {
        f"{index}.{name}": parameter.detach().clone()
        for index, chunk in enumerate(session.student)
        for name, parameter in chunk.named_parameters()
    }
    with settled():
        for step in (1, 2):
            Executor(session)._run_step(step)
    homes = _homes(session)
    assert homes.keys() == start.keys()
    for name, weight in start.items():
        assert torch.equal(homes[name], weight), name
    assert any(
        not torch.equal(parameter, start[f"{index}.{name}"])
        for index, chunk in enumerate(session.student)
        for name, parameter in chunk.named_parameters()
    )


def test_an_initial_teacher_of_adapters_is_their_base(home, tmp_path):
    """Without a second copy, whatever the base began from."""
    changes = LEARNS | INITIAL | {"student": 'tuning = "lora"\ninit = "random"'}
    assert compile_tiny(home, tmp_path / "run", **changes).models.teacher.is_students_base
