"""`gkdplan run` up to the launch and from its end on; the launch itself is the runtime's."""

import json
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import pytest

import gkdplan.runtime
from gkdplan.cli.main import run
from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.codec import decode, encode, seal
from gkdplan.runtime.machine import lacking
from gkdplan.runtime.result import RunResult

SAMPLE = {"prompt": "Say hello.", "completion": "Hello."}
SUMMARY = {
    "held_out_before": {"jsd": 0.5, "cross_entropy": 4.0, "num_tokens": 9},
    "held_out_after": {"jsd": 0.25, "cross_entropy": 3.0, "num_tokens": 9},
    "samples": {"teacher": SAMPLE, "student": SAMPLE},
}
STOPPED = error("GK530", "rank 1 raised in the student phase of step 2")


@dataclass
class Launcher:
    """Stands in for the runtime: leaves a run directory and says how the run ended."""

    capsys: pytest.CaptureFixture
    stops: bool = False
    lacks_gpus: bool = False
    plans: list = field(default_factory=list)
    resumed: list = field(default_factory=list)
    printed_before: str = ""

    def check_machine(self, run_plan):
        if self.lacks_gpus:
            raise UserError(error("GK515", "the plan wants 2 x h100-80gb"))

    def run(self, run_plan, resume):
        self.plans.append(run_plan)
        self.resumed.append(resume)
        self.printed_before = self.capsys.readouterr().out
        directory = Path(run_plan.training.output)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "plan.lock.json").write_text(encode(run_plan))
        if self.stops:
            return RunResult(4, directory, None, {}, (STOPPED,))
        student = directory / "checkpoints/step_3/student"
        student.mkdir(parents=True, exist_ok=True)
        (directory / "metrics.jsonl").touch()
        return RunResult(0, directory, student, SUMMARY)


@pytest.fixture
def launcher(monkeypatch, capsys) -> Launcher:
    made = Launcher(capsys)
    module = ModuleType("gkdplan.runtime.launch")
    module.run = made.run
    monkeypatch.setitem(sys.modules, "gkdplan.runtime.launch", module)
    monkeypatch.setattr(gkdplan.runtime, "launch", module, raising=False)
    monkeypatch.setattr(lacking, "check_machine", made.check_machine)
    return made


def test_the_outline_with_its_memory_comes_before_the_launch(workplace, launcher, capsys):
    assert run(["run"]) == 0
    assert "MiB a rank (ranks 0-1)" in launcher.printed_before
    assert "steps of a global batch" in launcher.printed_before
    assert launcher.resumed == ["auto"]


def test_a_run_ends_with_what_it_learned_and_where_it_lies(workplace, launcher, capsys):
    run(["run", "--resume", "never"])
    out = capsys.readouterr().out
    assert "JSD                       0.5000    0.2500  -50%" in out
    assert "student   Hello." in out
    assert "student   runs/little/checkpoints/step_3/student" in out
    assert "metrics   runs/little/metrics.jsonl" in out
    assert "report    runs/little/report.html" in out
    assert Path("runs/little/report.html").read_text().startswith("<!doctype html>")
    assert launcher.resumed == ["never"]


def test_a_stopped_run_says_why_and_still_has_its_report(workplace, launcher, capsys):
    launcher.stops = True
    assert run(["run"]) == 4
    out, err = capsys.readouterr()
    assert "error[GK530]: rank 1 raised in the student phase of step 2" in err
    assert "report    runs/little/report.html" in out
    assert "metrics   runs" not in out
    assert Path("runs/little/report.html").exists()


def test_a_dry_run_launches_nothing(workplace, launcher, capsys):
    assert run(["run", "--dry-run"]) == 0
    assert launcher.plans == []
    assert "MiB a rank (ranks 0-1)" in capsys.readouterr().out


def test_several_nodes_have_a_dry_run_and_no_launch_by_one_of_them(workplace, capsys):
    plan = Path("plan.toml")
    plan.write_text(plan.read_text().replace("[cluster]\n", "[cluster]\nnum_nodes = 2\n"))
    assert run(["run", "--dry-run"]) == 0
    assert "GK591" not in capsys.readouterr().err
    assert run(["run"]) == 1
    err = capsys.readouterr().err
    assert "error[GK581]: the plan has 2 nodes, and nothing says which of them" in err
    assert "gkdplan launch torchrun|slurm|k8s PLAN" in err
    assert not Path("runs").exists()


def test_a_plan_with_errors_is_never_launched(workplace, launcher, capsys):
    workplace.write_plan(limit="1 GiB")
    assert run(["run"]) == 1
    assert launcher.plans == []
    assert "error[GK3" in capsys.readouterr().err


def test_a_lock_of_the_same_decisions_is_run(workplace, launcher):
    run(["plan", "-o", "plan.lock.json"])
    assert run(["run", "--locked", "plan.lock.json"]) == 0
    assert len(launcher.plans) == 1


def test_a_lock_of_other_prices_is_not_stale(workplace, launcher):
    run(["plan", "-o", "plan.lock.json"])
    lock = decode(Path("plan.lock.json").read_text())
    older = replace(lock, tool="gkdplan 0.0.1", ledger=replace(lock.ledger, peak_bytes=1))
    Path("plan.lock.json").write_text(encode(seal(older)))
    assert run(["run", "--locked", "plan.lock.json"]) == 0
    assert len(launcher.plans) == 1


def test_a_stale_lock_is_refused_with_what_differs(workplace, launcher, capsys):
    run(["plan", "-o", "plan.lock.json"])
    workplace.write_plan(beta=1.0)
    assert run(["run", "--locked", "plan.lock.json"]) == 1
    err = capsys.readouterr().err
    assert "error[GK501]: `plan.lock.json` is stale" in err
    assert "note: restart: objective.beta  0.5 -> 1.0" in err
    assert launcher.plans == []


def test_an_edited_lock_is_refused(workplace, launcher, capsys):
    run(["plan", "-o", "plan.lock.json"])
    text = Path("plan.lock.json").read_text()
    Path("plan.lock.json").write_text(text.replace('"num_steps": 3', '"num_steps": 4'))
    assert run(["run", "--locked", "plan.lock.json"]) == 1
    assert "GK503" in capsys.readouterr().err
    assert launcher.plans == []


def test_run_as_json_is_one_document(workplace, launcher, capsys):
    assert run(["run", "--json"]) == 0
    assert launcher.printed_before == ""
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert answer["result"]["held_out_after"]["jsd"] == 0.25
    assert answer["result"]["student_dir"] == "runs/little/checkpoints/step_3/student"


def test_a_missing_extra_is_named(workplace, monkeypatch, capsys):
    for name in ("launch", "ranks"):
        monkeypatch.delitem(sys.modules, f"gkdplan.runtime.{name}", raising=False)
        monkeypatch.delattr(gkdplan.runtime, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch.distributed.launcher.api", None)
    assert run(["run"]) == 1
    err = capsys.readouterr().err
    assert "error[GK507]: running needs `torch" in err
    assert "gkdplan[run]" in err


def test_a_run_whose_tokenizers_were_never_seen_is_refused(workplace, launcher, capsys):
    for tokenizer in workplace.path.glob("*/tokenizer.json"):
        tokenizer.unlink()
    assert run(["run"]) == 1
    assert launcher.plans == []
    found = capsys.readouterr().err
    assert "error[GK519]: the student's tokenizer was not seen" in found
    assert "error[GK519]: the teacher's tokenizer was not seen" in found


def test_nothing_is_fetched_for_a_plan_that_this_machine_cannot_run(workplace, launcher, capsys):
    for tokenizer in workplace.path.glob("*/tokenizer.json"):
        tokenizer.unlink()
    launcher.lacks_gpus = True
    assert run(["run"]) == 1
    assert "error[GK515]" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_takes_nothing_from_the_ending(workplace, launcher, capsys):
    Path("runs/little").mkdir(parents=True)
    Path("runs/little/report.html").mkdir()
    assert run(["run", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["result"]["held_out_after"]["jsd"] == 0.25
    assert answer["ok"] is True
    assert answer["diagnostics"][-1]["code"] == "GK505"


@pytest.mark.parametrize("is_raised", [True, False], ids=["raised", "returned"])
def test_what_a_run_finds_has_its_place_in_the_plan(workplace, launcher, capsys, is_raised):
    found = error("GK476", "a prompt is too long", "data.max_length", label="16 tokens too many")

    def run_plan_fails(run_plan, resume):
        if is_raised:
            raise UserError(found)
        return replace(launcher.run(run_plan, resume), exit_code=1, diagnostics=(found,))

    gkdplan.runtime.launch.run = run_plan_fails
    line = Path("plan.toml").read_text().splitlines().index("max_length = 32") + 1
    assert run(["run", "--json"]) == 1
    *_, finding = json.loads(capsys.readouterr().out)["diagnostics"]
    assert (finding["span"]["file"], finding["span"]["line"]) == ("plan.toml", line)
    shutil.rmtree("runs", ignore_errors=True)
    assert run(["run"]) == 1
    assert "^^ 16 tokens too many" in capsys.readouterr().err
