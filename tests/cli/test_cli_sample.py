"""`gkdplan sample` around the runtime: what it asks for, and how it ends."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import gkdplan.runtime
from gkdplan.cli.main import run
from gkdplan.diagnostics import error
from gkdplan.runplan.steps import Draw, Evaluate, Generate
from gkdplan.runtime.samples.launch import SamplesResult
from gkdplan.vocab import Engine, Role, Source

COUNTS = {"num_rows": 8, "num_tokens": 100, "num_cut": 2}


@pytest.fixture
def asked(workplace, monkeypatch) -> list:
    """What the runtime was asked for; it answers with `result`."""
    calls: list = []
    module = ModuleType("gkdplan.runtime.samples.launch")
    module.result = SamplesResult(0, COUNTS)
    module.sample = lambda *arguments: calls.append(arguments) or module.result
    monkeypatch.setitem(sys.modules, "gkdplan.runtime.samples.launch", module)
    monkeypatch.setattr(gkdplan.runtime.samples, "launch", module, raising=False)
    return calls


def test_every_step_of_what_is_compiled_is_on_the_samples(asked, capsys):
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl"]) == 0
    run_plan, manifest, drawn_as, _, file = asked[0]
    draw = next(step for step in run_plan.steps if isinstance(step, Draw))
    assert (draw.lmbda, draw.seq_kd) == (0, 1)
    (generate,) = (step for step in run_plan.steps if isinstance(step, Generate))
    assert (generate.source, generate.role) == (Source.TEACHER, Role.TEACHER)
    assert not any(isinstance(step, Evaluate) for step in run_plan.steps)
    assert manifest.role is drawn_as is Role.TEACHER
    assert (manifest.engine, file) == (Engine.MEGATRON, "samples.jsonl")
    out = capsys.readouterr().out
    assert "samples   samples.jsonl\nrows      8\ntokens    100, 12.5 a row" in out
    assert "cut       2 responses" in out


def test_the_student_samples_where_it_is_asked(asked):
    assert run(["sample", "--source", "student", "-o", "samples.jsonl"]) == 0
    run_plan, manifest, drawn_as, _, _ = asked[0]
    assert drawn_as is Role.STUDENT
    (generate,) = (step for step in run_plan.steps if isinstance(step, Generate))
    assert (generate.role, manifest.role, manifest.model) == ("student", "student", "Qwen2.5-0.5B")


def test_a_plan_without_an_engine_samples_with_megatron(workplace, asked):
    plan = Path("plan.toml")
    plan.write_text(plan.read_text().replace("[generation]", '[generation]\nengine = "none"'))
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl"]) == 0
    assert asked[0][1].engine is Engine.MEGATRON


def test_a_plan_that_does_not_fit_can_be_sampled(workplace, asked):
    workplace.write_plan(limit="1 GiB")
    assert run(["check"]) == 1
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl"]) == 0


def test_any_other_error_is_shown_at_its_place(workplace, asked, capsys):
    plan = Path("plan.toml")
    plan.write_text(plan.read_text().replace("tensor = 2", "tensor = 3"))
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl"]) == 1
    assert asked == []
    assert "plan.toml:10:10" in capsys.readouterr().err


def test_the_answer_as_json(asked, capsys):
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert answer["result"] == {"exit_code": 0, "file": "samples.jsonl", **COUNTS}


def test_a_stop_has_its_exit_code_and_its_reason(asked, capsys):
    stopped = error("GK533", "sampling was stopped by SIGTERM")
    sys.modules["gkdplan.runtime.samples.launch"].result = SamplesResult(4, {}, (stopped,))
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl"]) == 4
    captured = capsys.readouterr()
    assert "error[GK533]" in captured.err
    assert captured.out == ""


def test_the_model_and_the_file_are_not_guessed(workplace, capsys):
    assert run(["sample", "-o", "samples.jsonl"]) == 2
    assert run(["sample", "--source", "teacher"]) == 2
    assert run(["sample", "--source", "dataset", "-o", "samples.jsonl"]) == 2


VLLM = '[generation]\nengine = "vllm"\ngpu_memory_utilization = 0.5'


def test_vllm_on_the_ranks_draws_the_teachers_samples_as_a_students(workplace, asked):
    """The engine holds a student's weights; the prompts are the student's all the same."""
    plan = Path("plan.toml")
    plan.write_text(plan.read_text().replace("[generation]", VLLM))
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl"]) == 0
    run_plan, manifest, drawn_as, renderer, _ = asked[0]
    assert (drawn_as, manifest.role, manifest.engine) == (Role.STUDENT, Role.TEACHER, Engine.VLLM)
    assert (run_plan.models.student.model, manifest.model) == ("Qwen2.5-1.5B", "Qwen2.5-1.5B")
    assert renderer.model == "Qwen2.5-0.5B"


def test_a_share_that_holds_no_sequence_is_refused_before_it_starts(workplace, asked, capsys):
    plan = Path("plan.toml")
    plan.write_text(plan.read_text().replace("[generation]", VLLM.replace("0.5", "0.001")))
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl"]) == 1
    assert asked == []
    assert "error[GK305]" in capsys.readouterr().err


def test_a_server_that_holds_the_students_weights_does_not_draw_the_teachers(workplace, asked):
    server = '[generation]\nengine = "vllm"\nmode = "server"\nserver_url = "http://127.0.0.1:1"'
    plan = Path("plan.toml")
    plan.write_text(plan.read_text().replace("[generation]", server))
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl"]) == 0
    run_plan, manifest, drawn_as, _, _ = asked[0]
    assert (drawn_as, manifest.engine) == (Role.TEACHER, Engine.MEGATRON)
    assert run_plan.sampling.server_urls == ()


def test_what_weights_a_server_holds_is_not_claimed(workplace, asked):
    plan = Path("plan.toml")
    served = plan.read_text().replace(
        'offload = "cpu"', 'server = {url = "http://127.0.0.1:1", top_k = 2}'
    )
    plan.write_text(served.replace("[distill]", "[distill]\nloss_temperature = 1.0"))
    assert run(["sample", "--source", "teacher", "-o", "samples.jsonl"]) == 0
    _, manifest, drawn_as, _, _ = asked[0]
    assert (drawn_as, manifest.engine, manifest.weights) == (Role.TEACHER, Engine.VLLM, None)
