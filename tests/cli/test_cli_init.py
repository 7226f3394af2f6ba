"""`gkdplan init`: with options alone, a plan that passes check; nothing is asked of nobody."""

import json
import tomllib
from pathlib import Path

import pytest

from gkdplan.cli import init as init_module
from gkdplan.cli.main import run

PAIRS = [
    ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct", "rtx-4090-24gb", 1, []),
    ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "a100-80gb", 2, []),
    ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "h100-80gb", 2, []),
    ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-32B-Instruct", "h100-80gb", 8, ["--lora"]),
    ("Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "h200-141gb", 8, []),
    ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "a100-40gb", 4, []),
    ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", "l40s-48gb", 2, []),
    ("google/gemma-2-2b", "google/gemma-2-9b", "h100-80gb", 4, ["--lora"]),
    ("mistralai/Mistral-7B-v0.1", "mistralai/Mixtral-8x7B-v0.1", "h200-141gb", 8, ["--lora"]),
    ("Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B", "b200-192gb", 8, []),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-cache"))
    row = json.dumps({"prompt": "name a colour", "completion": "blue"})
    Path("rows.jsonl").write_text(f"{row}\n" * 64)


def options(student: str, teacher: str, device: str, devices: int) -> list[str]:
    models = ["--student", student, "--teacher", teacher]
    return [*models, "--data", "rows.jsonl", "--device", device, "--devices", str(devices)]


IN_EVERY_RUN = 4


@pytest.mark.parametrize(
    ("student", "teacher", "device", "devices", "more"),
    [
        pytest.param(*pair, marks=() if index < IN_EVERY_RUN else pytest.mark.grid)
        for index, pair in enumerate(PAIRS)
    ],
)
def test_options_alone_give_a_plan_that_passes_check(
    student: str, teacher: str, device: str, devices: int, more: list[str], capsys
) -> None:
    status = run(["init", *options(student, teacher, device, devices), *more])
    assert status == 0, capsys.readouterr()
    capsys.readouterr()
    assert run(["check", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["summary"]["num_errors"] == 0
    assert answer["summary"]["verdict"] in ("fits", "tight")
    plan = tomllib.loads(Path("plan.toml").read_text())
    assert (plan["student"]["model"], plan["teacher"]["model"]) == (student, teacher)
    assert (plan["cluster"]["device"], plan["cluster"]["devices_per_node"]) == (device, devices)
    assert plan["student"]["tuning"] == ("lora" if more else "full")


def test_a_layout_with_room_to_spare_is_preferred_to_a_faster_one(capsys) -> None:
    models = ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-14B-Instruct")
    assert run(["init", "--json", *options(*models, "l40s-48gb", 2)]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["verdict"] == "fits"


def test_a_plain_layout_is_preferred_to_one_that_is_hardly_faster(capsys) -> None:
    """Two GPUs: stages in 18 chunks are predicted to be 1% faster than a whole student on each."""
    models = ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-7B-Instruct")
    assert run(["init", *options(*models, "h100-80gb", 2)]) == 0
    assert "parallel" not in tomllib.loads(Path("plan.toml").read_text())["student"]


def test_models_that_only_torchs_kernels_run_get_them(capsys) -> None:
    assert run(["init", *options("google/gemma-2-2b", "google/gemma-2-2b", "h100-80gb", 1)]) == 0
    assert tomllib.loads(Path("plan.toml").read_text())["cluster"]["kernels"] == "torch"


def test_what_is_missing_is_named_where_nobody_can_be_asked(capsys) -> None:
    assert run(["init", "--student", "x"]) == 2
    assert "`--teacher`" in capsys.readouterr().err
    assert not Path("plan.toml").exists()


def test_what_is_missing_is_asked_for_on_a_terminal(monkeypatch, capsys) -> None:
    answers = {
        "the student's model": "Qwen/Qwen2.5-0.5B-Instruct",
        "the teacher's model": "Qwen/Qwen2.5-1.5B-Instruct",
        "a file of rows": "rows.jsonl",
        'the GPU, such as "h100-80gb", or "cpu"': "h100-80gb",
    }
    monkeypatch.setattr(init_module.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(init_module.typer, "prompt", lambda what, err: answers.pop(what))
    assert run(["init", "mine.toml"]) == 0
    assert answers == {}
    assert run(["check", "mine.toml"]) == 0


def test_models_that_fit_in_no_layout_give_no_plan(capsys) -> None:
    large = "Qwen/Qwen2.5-72B-Instruct"
    assert run(["init", *options(large, large, "cpu", 1)]) == 1
    out, err = capsys.readouterr()
    assert "no layout" in out
    assert "error[GK529]" in err
    assert not Path("plan.toml").exists()


def test_names_that_are_not_known_are_found_before_a_layout_is(capsys) -> None:
    assert run(["init", *options("Qwen/Qwen2.5-1.6B", "Qwen/Qwen3-8B", "h100", 1)]) == 1
    err = capsys.readouterr().err
    assert "GK101" in err
    assert "GK120" in err


def test_no_plan_is_overwritten(capsys) -> None:
    Path("plan.toml").write_text("mine")
    assert run(["init", *options(*PAIRS[0][:4])]) == 1
    assert "GK520" in capsys.readouterr().err
    assert Path("plan.toml").read_text() == "mine"


def test_rows_with_images_at_addresses_need_their_host_named(capsys) -> None:
    asked = {"role": "user", "content": "<image>What is it?"}
    answered = {"role": "assistant", "content": "A cat."}
    images = ["https://images.example.org/cat.png"]
    pictures = {"messages": [asked, answered], "images": images}
    Path("rows.jsonl").write_text(f"{json.dumps(pictures)}\n" * 64)
    seeing = ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "h100-80gb", 2)
    assert run(["init", *options(*seeing)]) == 1
    assert "let a run fetch images from there" in capsys.readouterr().err
    assert run(["init", *options(*seeing), "--image-host", "images.example.org"]) == 0
    plan = tomllib.loads(Path("plan.toml").read_text())
    assert plan["data"]["image_hosts"] == ["images.example.org"]
    assert run(["check"]) == 0
