"""`gkdplan export hf`: a run's student as a directory that transformers and PEFT load."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import launched_as_forks
from peft import PeftModel
from safetensors.torch import load_file
from tiny_plans import compile_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from gkdplan.cli.main import run as command
from gkdplan.runtime.launch import run

LORA = 'tuning = "lora"\n[student.lora]\nrank = 4'


@pytest.fixture(scope="module", autouse=True)
def forks() -> Iterator[None]:
    with launched_as_forks():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny.save_qwen3(home / "teacher", seed=1)
    tiny.save_qwen2(home / "student", seed=2)
    tiny.save_rows(home / "rows.jsonl")
    return home


@pytest.fixture(scope="module")
def finished(home, tmp_path_factory) -> Path:
    """The directory of a run with adapters, with checkpoints after steps 1 and 2."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    plan = compile_tiny(home, directory, devices=1, student=LORA, steps=2, save_interval=1, lmbda=0)
    assert run(plan).exit_code == 0
    return directory


@pytest.fixture
def run_dir(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def same_bytes(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def test_the_newest_student_is_copied_with_a_card(run_dir, tmp_path, capsys):
    out = tmp_path / "out"
    assert command(["export", "hf", str(run_dir), "-o", str(out)]) == 0
    saved = run_dir / "checkpoints" / "step_2" / "student"
    assert {path.name for path in out.iterdir()} == {p.name for p in saved.iterdir()} | {
        "README.md"
    }
    assert all(same_bytes(path, out / path.name) for path in saved.iterdir())
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nbase_model: ")
    assert "| checkpoint | step_2 of 2 |" in card
    assert "step_2" in capsys.readouterr().out
    AutoModelForCausalLM.from_pretrained(out)
    AutoTokenizer.from_pretrained(out)


def test_another_dtype_is_that_of_every_weight_and_of_the_config(run_dir, tmp_path):
    out = tmp_path / "out"
    source = str(run_dir / "checkpoints" / "step_1")
    assert command(["export", "hf", source, "-o", str(out), "--dtype", "bf16"]) == 0
    saved = load_file(run_dir / "checkpoints" / "step_1" / "student" / "model.safetensors")
    cast = load_file(out / "model.safetensors")
    assert cast.keys() == saved.keys()
    assert all(torch.equal(cast[name], saved[name].bfloat16()) for name in saved)
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16


def test_adapters_are_exported_as_peft_loads_them(home, run_dir, tmp_path):
    out = tmp_path / "out"
    assert command(["export", "hf", str(run_dir), "-o", str(out), "--adapter"]) == 0
    base = AutoModelForCausalLM.from_pretrained(home / "student")
    tokens = torch.tensor([[5, 9, 14, 3]])
    merged = AutoModelForCausalLM.from_pretrained(run_dir / "checkpoints" / "step_2" / "student")
    with torch.no_grad():
        expected = merged(tokens).logits
        torch.testing.assert_close(
            PeftModel.from_pretrained(base, out)(tokens).logits, expected, rtol=0, atol=1e-5
        )


def test_a_damaged_checkpoint_is_passed_over_by_name(run_dir, tmp_path, capsys):
    weights = run_dir / "checkpoints" / "step_2" / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    out = tmp_path / "out"
    assert command(["export", "hf", str(run_dir), "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert "step_1" in printed.out
    assert "warning[GK588]" in printed.err
    assert same_bytes(
        out / "model.safetensors",
        run_dir / "checkpoints" / "step_1" / "student" / "model.safetensors",
    )


@pytest.mark.parametrize("what", ["one that is damaged", "no run", "a directory that is there"])
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(what, run_dir, tmp_path, capsys):
    source, out = run_dir / "checkpoints" / "step_2", tmp_path / "out"
    code = "GK588"
    if what == "one that is damaged":
        (source / "student" / "config.json").write_text("{}")
    elif what == "no run":
        source = tmp_path
    else:
        out.mkdir()
        code = "GK520"
    before = sorted(tmp_path.iterdir())
    assert command(["export", "hf", str(source), "-o", str(out)]) == 1
    assert f"error[{code}]" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
