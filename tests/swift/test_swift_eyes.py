"""What learns of models that see, in full tuning and beside adapters."""

import json
import tomllib
from pathlib import Path

import pytest

from gkdplan.cli.main import run

COMMAND = """megatron rlhf --rlhf_type gkd --model Qwen/Qwen2.5-VL-3B-Instruct \\
    --teacher_model Qwen/Qwen2.5-VL-7B-Instruct --dataset data/rows.jsonl \\
    --freeze_vit {vit} --freeze_aligner {aligner} {tuning}
"""


@pytest.mark.parametrize(
    ("tuning", "vit", "aligner", "said", "lost"),
    [
        ("", "false", "true", {"freeze_vision": False, "freeze_projector": True}, []),
        (
            "--tuner_type full",
            "true",
            "false",
            {"freeze_vision": True, "freeze_projector": False},
            [],
        ),
        ("--tuner_type lora", "false", "true", {"freeze_projector": True}, ["--freeze_vit"]),
        ("--tuner_type lora", "true", "false", {"freeze_vision": True}, ["--freeze_aligner"]),
    ],
)
def test_eyes_that_have_adapters_there_are_named(
    tuning, vit, aligner, said, lost, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("train.sh").write_text(COMMAND.format(tuning=tuning, vit=vit, aligner=aligner))
    assert run(["import", "swift", "train.sh", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    student = tomllib.loads(answer["plan"])["student"]
    assert {key: student[key] for key in student if key.startswith("freeze")} == said
    assert [found["message"].split("`")[1] for found in answer["diagnostics"]] == lost
