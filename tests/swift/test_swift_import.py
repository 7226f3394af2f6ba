"""Commands in the style of ms-swift's documentation become plans that pass `check`."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gkdplan.cli.main import run

COMMANDS = Path(__file__).parent / "commands"
LOST = {
    "off_policy.sh": [],
    "on_policy.sh": ["no_save_optim", "no_save_rng", "repetition_penalty", "steps_per_generation"],
    "lora.sh": ["packing", "report_to", "tp_comm_overlap"],
    "teacher_server.sh": ["vllm_server_timeout"],
    "self_distillation.sh": ["external_plugins"],
    "multi_turn.sh": [
        "a_flag_of_tomorrow",
        "enable_thinking",
        "loss_scale",
        "max_turns",
        "multi_turn_scheduler",
    ],
    "with_config.sh": [],
    "ray_separate.yaml": ["vllm_gpu_memory_utilization", "vllm_tensor_parallel_size"],
    "ray_standalone.yaml": ["vllm_engine_kwargs"],
}
"""The flags of each command that no plan has."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-cache"))
    row = json.dumps({"prompt": "name a colour", "completion": "blue"})
    (tmp_path / "data").mkdir()
    for name in ("rows", "more", "held_out"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(f"{row}\n" * 64)
    return tmp_path


def imported(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], list[str]]:
    """The plan of a command, and the messages of its findings."""
    capsys.readouterr()
    assert run(["import", "swift", str(COMMANDS / name), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {finding["code"] for finding in answer["diagnostics"]} <= {"GK011"}
    Path("plan.toml").write_text(answer["plan"])
    return tomllib.loads(answer["plan"]), [each["message"] for each in answer["diagnostics"]]


@pytest.mark.parametrize("name", LOST)
def test_a_command_becomes_a_plan_that_checks(name: str, capsys) -> None:
    _, messages = imported(name, capsys)
    assert sorted(message.split("`")[1].removeprefix("--") for message in messages) == LOST[name]
    assert run(["check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", LOST)
def test_every_flag_of_a_command_stands_in_its_plan(name: str, capsys) -> None:
    """Beside a key or above them; a YAML's key too, but for what groups those of Ray."""
    imported(name, capsys)
    text, plan = (COMMANDS / name).read_text(), Path("plan.toml").read_text()
    if name.endswith(".yaml"):
        lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
        flags = [line.partition(":")[0] for line in lines if ":" in line]
        groups = ("train", "rollout", "teacher", "gpus", "colocate_groups")
        flags = [flag for flag in flags if flag not in groups and not flag.startswith("model")]
    else:
        flags = [word[2:].partition("=")[0] for word in text.split() if word.startswith("--")]
    assert [flag for flag in flags if f"--{flag}" not in plan] == []


def test_an_off_policy_command_key_by_key(capsys) -> None:
    plan, _ = imported("off_policy.sh", capsys)
    assert plan == {
        "name": "qwen2.5-7b-instruct-to-qwen2.5-1.5b-instruct",
        "cluster": {"device": "h100-80gb", "devices_per_node": 4},
        "student": {
            "model": "Qwen/Qwen2.5-1.5B-Instruct",
            "tuning": "full",
            "parallel": {"pipeline": 2},
            "recompute": {"granularity": "full", "method": "uniform", "num_layers": 1},
        },
        "teacher": {"model": "Qwen/Qwen2.5-7B-Instruct"},
        "distill": {"beta": 0.1, "lmbda": 0.0, "temperature": 1.0, "sft_alpha": 0.25},
        "generation": {"max_completion_length": 384, "engine": "none"},
        "data": {
            "max_length": 1536,
            "train": ["data/rows.jsonl#500", "data/more.jsonl"],
            "eval": ["data/held_out.jsonl"],
            "truncation": "right",
        },
        "batch": {"micro": 2, "global": 16},
        "optimizer": {
            "lr": 2e-5,
            "min_lr": 2e-6,
            "weight_decay": 0.05,
            "clip_grad": 0.5,
            "betas": [0.9, 0.98],
            "schedule": "linear",
            "warmup_fraction": 0.05,
        },
        "run": {
            "output": "runs/off-policy",
            "epochs": 2,
            "keep": 3,
            "seed": 7,
            "save_interval": 50,
            "eval_interval": 50,
            "loggers": ["tensorboard"],
        },
    }


def test_the_tables_of_an_on_policy_command(capsys) -> None:
    plan, _ = imported("on_policy.sh", capsys)
    assert plan["student"] == {
        "model": "Qwen/Qwen2.5-3B-Instruct",
        "dtype": "bf16",
        "offload": "cpu",
        "parallel": {"tensor": 2, "sequence": True},
        "recompute": {"granularity": "selective", "modules": ["core_attn"]},
    }
    assert plan["teacher"] == {"model": "Qwen/Qwen2.5-7B-Instruct", "offload": "cpu"}
    assert plan["generation"] == {
        "engine": "vllm",
        "gpu_memory_utilization": 0.4,
        "max_completion_length": 1024,
        "sleep_level": 2,
        "tensor": 2,
        "top_k": 50,
        "top_p": 0.95,
    }
    assert plan["optimizer"] == {"warmup_fraction": 0.05, "offload": "cpu"}
    assert plan["run"] == {"steps": 400, "loggers": ["tensorboard"]}


def test_the_adapters_of_a_command_on_two_nodes(capsys) -> None:
    plan, _ = imported("lora.sh", capsys)
    assert plan["cluster"]["num_nodes"] == 2
    assert plan["student"]["lora"] == {
        "rank": 16,
        "alpha": 64.0,
        "dropout": 0.05,
        "targets": ["all-linear"],
    }
    assert plan["student"]["parallel"] == {
        "pipeline": 2,
        "first_stage_layers": 15,
        "last_stage_layers": 13,
        "context": 2,
    }
    assert plan["optimizer"]["lr"] == 1e-4
    assert plan["distill"]["lmbda"] == 0.0


def test_teachers_behind_servers_answer_at_a_temperature_of_1(capsys) -> None:
    for name, url in (("teacher_server.sh", "8000"), ("ray_standalone.yaml", "8001")):
        plan, _ = imported(name, capsys)
        assert plan["teacher"]["server"]["url"] == f"http://127.0.0.1:{url}"
        assert plan["distill"]["loss_temperature"] == 1.0
    assert plan["teacher"]["server"]["top_k"] == 64


def test_a_student_without_a_teacher_is_its_own(capsys) -> None:
    plan, _ = imported("self_distillation.sh", capsys)
    assert plan["teacher"] == {"self": "initial"}


def test_the_command_line_stands_above_its_yaml(capsys) -> None:
    plan, _ = imported("with_config.sh", capsys)
    assert plan["distill"]["beta"] == 0.9
    assert plan["data"]["train"] == ["data/rows.jsonl", "data/more.jsonl"]
    assert plan["optimizer"]["lr"] == 1e-6
    assert plan["cluster"]["devices_per_node"] == 2


def test_a_rollout_with_gpus_of_its_own_is_served(capsys) -> None:
    plan, _ = imported("ray_separate.yaml", capsys)
    assert plan["cluster"] == {"device": "h100-80gb", "num_nodes": 1, "devices_per_node": 4}
    assert plan["generation"]["mode"] == "server"
    assert plan["student"]["tuning"] == "lora"
    assert plan["distill"]["top_k"] == 64
    plan, _ = imported("ray_standalone.yaml", capsys)
    assert "mode" not in plan["generation"]


BASE = "megatron rlhf --rlhf_type gkd --model m --teacher_model t --dataset d.jsonl"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.sh", "echo hello\n", "has no `megatron rlhf` command"),
        ("x.sh", f"{BASE}\n{BASE}\n", "has more than one `megatron rlhf` command"),
        ("x.sh", "swift rlhf --rlhf_type gkd\n", "trains without Megatron"),
        (
            "x.sh",
            "megatron rlhf --rlhf_type dpo --model m\n",
            "`--rlhf_type dpo` is no distillation",
        ),
        ("x.sh", "megatron rlhf --model m\n", "no `--rlhf_type gkd`"),
        ("x.sh", "megatron rlhf --rlhf_type gkd\n", "names no model"),
        ("x.sh", f"{BASE} --lr $LR\n", "only a shell knows what `$LR` is"),
        ("x.sh", f"{BASE} --lr $(cat lr)\n", "only a shell knows"),
        ("x.sh", f"{BASE} --lr fast\n", "`--lr` takes a number, not `fast`"),
        ("x.sh", f"{BASE} --lr 1 2\n", "`--lr` takes one value, not `1 2`"),
        ("x.sh", f"{BASE} --seq_kd maybe\n", "takes true or false"),
        ("x.sh", f"{BASE} --micro_batch_size 1.5\n", "takes a whole number"),
        ("x.sh", f"{BASE} --template 'qwen\n", "a quote of `x.sh` is not closed"),
        ("x.sh", "megatron rlhf gkd\n", "`gkd` belongs to no flag"),
        ("x.sh", "megatron rlhf --config gone.yaml\n", "`gone.yaml` cannot be read"),
        ("x.yaml", "a: [1\n", "is not YAML"),
        ("x.yaml", "- 1\n", "is no table of flags"),
        ("x.yaml", "", "is no table of flags"),
        ("x.yaml", "rlhf_type: gkd\nmodel: m\ntrain:\n  gpus: many\n", "is no number of GPUs"),
        ("x.yaml", "!!python/object/apply:os.system ['touch mark']\n", "is not YAML"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_its_place(
    name: str, text: str, words: str, capsys
) -> None:
    Path(name).write_text(text)
    assert run(["import", "swift", name]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert words in " ".join(err.split()), err
    assert not Path("mark").exists()


def test_no_file_is_overwritten(capsys) -> None:
    command = ["import", "swift", str(COMMANDS / "lora.sh"), "-o", "mine.toml"]
    assert run(command) == 0
    written = Path("mine.toml").read_text()
    assert run(command) == 1
    assert "GK520" in capsys.readouterr().err
    assert Path("mine.toml").read_text() == written
