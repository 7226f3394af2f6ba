"""`gkdplan verify`: what it refuses, what it answers, and its exit codes."""

import json
from pathlib import Path

import pytest

from gkdplan.cli.main import run
from gkdplan.runplan.rehearsal import Check, Claim
from gkdplan.runtime import trace
from gkdplan.runtime.rehearsal import launch

PLAN = """
name = "verified"
[cluster]
device = "h100-80gb"
devices_per_node = 2
[student]
model = "HuggingFaceTB/SmolLM2-135M-Instruct"
[student.parallel]
tensor = 1
[teacher]
model = "HuggingFaceTB/SmolLM2-135M-Instruct"
[distill]
lmbda = 0.0
[generation]
engine = "none"
max_completion_length = 16
[data]
train = ["rows.jsonl"]
max_length = 48
[batch]
micro = 1
global = 2
[run]
steps = 2
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    row = {"prompt": "two and two", "completion": "four"}
    Path("rows.jsonl").write_text(f"{json.dumps(row)}\n" * 2, encoding="utf-8")
    Path("plan.toml").write_text(PLAN, encoding="utf-8")
    return "plan.toml"


def test_a_gpu_plan_is_run_at_reduced_size_and_holds(plan, capsys):
    assert run(["verify", plan, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["num_ranks"], len(answer["checks"])) == (True, 2, 6)
    assert all(0 <= row["measured"] <= row["tolerance"] for row in answer["checks"])
    assert any(row["measured"] > 0 for row in answer["checks"])


def test_a_number_beyond_its_tolerance_exits_with_1(plan, capsys, monkeypatch):
    miss = Check(Claim.LAYOUT, "gradient", 2e-4, 1e-4, "model.norm.weight")
    monkeypatch.setattr(launch, "rehearse", lambda plans, home: (miss,))
    assert run(["verify", plan]) == 1
    assert "1 number beyond tolerance" in capsys.readouterr().out


def test_a_gpu_plan_is_traced_and_priced_for_the_cpu_and_says_so(plan, capsys):
    assert run(["verify", plan, "--trace", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"]
    assert answer["device"] == "cpu"
    assert "traced and priced for device cpu, not h100-80gb" in answer["notes"][1]
    errors = {phase["phase"]: phase["error"] for phase in answer["phases"]}
    assert errors["checkpoint"] is None
    assert all(abs(errors[phase]) <= 0.01 for phase in ("teacher", "student", "optimizer"))
    (only,) = answer["classes"]
    assert (only["ranks"], only["stage"], only["teacher_stage"]) == ([[0, 2]], 0, 0)
    assert only["phases"] == answer["phases"]


def test_a_phase_that_misses_by_more_than_a_hundredth_exits_with_1(plan, capsys, monkeypatch):
    def more_than_planned(run_plan, tell):
        classes = zip(run_plan.layout.classes, run_plan.ledger.classes, strict=True)
        return {
            rank_class: {
                phase: int(memory.peak_bytes * 1.011) for phase, memory in priced.phases.items()
            }
            for rank_class, priced in classes
        }

    monkeypatch.setattr(trace, "trace", more_than_planned)
    assert run(["verify", plan, "--trace"]) == 1
    assert "not every traced phase is within 1%" in capsys.readouterr().out


def test_what_vllm_holds_is_left_out_and_the_note_says_so(plan, capsys):
    text = PLAN.replace('"none"', '"vllm"').replace("lmbda = 0.0", "lmbda = 1.0")
    Path(plan).write_text(text, encoding="utf-8")
    assert run(["verify", plan, "--trace"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "every traced phase is within 1%" in out
    assert "vllm does not run: traced and priced as if Megatron's own modules sampled" in out


@pytest.mark.grid
def test_what_rests_on_the_host_is_traced_there(plan, capsys):
    text = PLAN.replace("[student]", '[student]\noffload = "cpu"')
    Path(plan).write_text(f'{text}[optimizer]\noffload = "cpu"\n', encoding="utf-8")
    assert run(["verify", plan, "--trace"]) == 0
    assert "every traced phase is within 1%" in capsys.readouterr().out
