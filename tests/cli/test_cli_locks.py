"""`plan -o`, `memory`, `show` and `diff` over plans of a bundled shape and the locks they write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gkdplan.cli.main import run
from gkdplan.runplan.codec import decode


def test_a_plan_is_outlined_and_locked(workplace, capsys):
    assert run(["plan", "-o", "plan.lock.json"]) == 0
    out, err = capsys.readouterr()
    lock = decode(Path("plan.lock.json").read_text())
    assert lock.name == "little"
    assert out.startswith("little    2 x cpu    ")
    assert "steps of a global batch" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "wrote plan.lock.json" in err


def test_compiling_twice_gives_the_same_lock(workplace):
    assert run(["plan", "-o", "a.json"]) == run(["plan", "-o", "b.json"]) == 0
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_a_lock_that_is_replaced_is_compared_first(workplace, capsys):
    run(["plan", "-o", "plan.lock.json"])
    workplace.write_plan(beta=1.0)
    capsys.readouterr()
    assert run(["plan", "-o", "plan.lock.json"]) == 0
    assert (
        "changes to plan.lock.json\n"
        "restart  objective.beta  0.5 -> 1.0: same peak, another objective\n"
        in capsys.readouterr().out
    )
    assert decode(Path("plan.lock.json").read_text()).objective.beta == 1.0


def test_what_is_not_a_lock_is_not_overwritten(workplace, capsys):
    Path("thesis.json").write_text('{"chapters": 7}')
    assert run(["plan", "-o", "thesis.json"]) == 1
    err = capsys.readouterr().err
    assert "error[GK502]: thesis.json is not a lock of gkdplan" in err
    assert "it is left as it is" in err
    assert Path("thesis.json").read_text() == '{"chapters": 7}'


def test_an_edited_lock_may_be_written_anew(workplace):
    run(["plan", "-o", "plan.lock.json"])
    text = Path("plan.lock.json").read_text()
    Path("plan.lock.json").write_text(text.replace('"num_steps": 3', '"num_steps": 4'))
    assert run(["show", "plan.lock.json"]) == 1
    assert run(["plan", "-o", "plan.lock.json"]) == 0
    assert Path("plan.lock.json").read_text() == text


def test_a_plan_that_does_not_fit_shows_by_how_much_and_leaves_no_lock(workplace, capsys):
    workplace.write_plan(limit="1 GiB")
    assert run(["plan", "-o", "plan.lock.json"]) == 1
    out, err = capsys.readouterr()
    assert "over: peak" in out
    assert "error[GK3" in err
    assert not Path("plan.lock.json").exists()


@pytest.mark.parametrize("target", ["nowhere/plan.lock.json", "."])
def test_a_place_that_cannot_be_written_is_named(workplace, capsys, target):
    assert run(["plan", "-o", target]) == 1
    assert "GK505" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["plan", "-o"], ["memory", "--html"]])
def test_what_cannot_be_written_is_one_json_document(workplace, capsys, arguments):
    assert run([*arguments, "missing/file", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert finding["code"] == "GK505"


@pytest.mark.parametrize("command", [["show"], ["diff", "plan.toml"]])
def test_a_plan_that_decides_nothing_is_one_json_document(workplace, capsys, command):
    Path("bad.toml").write_text("name = 1\n")
    assert run([*command, "bad.toml", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert {finding["code"] for finding in answer["diagnostics"]} == {"GK003", "GK004"}


def test_plan_as_json_holds_findings_run_plan_and_changes(workplace, capsys):
    run(["plan", "-o", "plan.lock.json"])
    workplace.write_plan(beta=1.0)
    capsys.readouterr()
    assert run(["plan", "-o", "plan.lock.json", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema_version"], answer["ok"]) == (1, True)
    assert answer["run_plan"] == json.loads(Path("plan.lock.json").read_text())
    assert answer["changes"] == [
        {
            "path": "objective.beta",
            "old": 0.5,
            "new": 1.0,
            "label": "restart",
            "objective": True,
            "decision": "objective.beta",
            "peak_difference_bytes": 0,
        }
    ]
    assert answer["summary"]["peak_bytes"] == answer["run_plan"]["ledger"]["peak_bytes"]


def test_memory_is_the_same_of_a_plan_and_of_its_lock(workplace, capsys):
    run(["plan", "-o", "plan.lock.json"])
    capsys.readouterr()
    assert run(["memory", "plan.toml"]) == run(["memory", "plan.lock.json"]) == 0
    both = capsys.readouterr().out
    assert both[: len(both) // 2] == both[len(both) // 2 :]
    assert "before teacher   fetch teacher body" in both


def test_memory_writes_a_page(workplace, capsys):
    assert run(["memory", "--html", "memory.html"]) == 0
    assert Path("memory.html").read_text().startswith("<!doctype html>")


def test_memory_as_json_is_the_lock_s_ledger(workplace, capsys):
    run(["plan", "-o", "plan.lock.json"])
    capsys.readouterr()
    assert run(["memory", "plan.lock.json", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    lock = json.loads(Path("plan.lock.json").read_text())
    assert (answer["ledger"], answer["schedule"]) == (lock["ledger"], lock["schedule"])


def test_show_prints_a_lock_s_outline_without_looking_at_the_world(workplace, capsys):
    run(["plan", "-o", "plan.lock.json"])
    planned = capsys.readouterr().out
    Path("rows.jsonl").unlink()
    Path("plan.toml").unlink()
    assert run(["show", "plan.lock.json"]) == 0
    assert capsys.readouterr().out == planned


def test_diff_takes_plans_and_locks(workplace, capsys):
    run(["plan", "-o", "plan.lock.json"])
    workplace.write_plan("other.toml", beta=0.0)
    capsys.readouterr()
    assert run(["diff", "plan.lock.json", "other.toml"]) == 0
    assert capsys.readouterr().out.startswith(
        "restart  objective.beta  0.5 -> 0.0: same peak, another objective\n1 difference"
    )
    assert run(["diff", "plan.toml", "plan.lock.json"]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_a_missing_lock_is_named(workplace, capsys):
    assert run(["show", "gone.lock.json"]) == 1
    assert "error[GK505]: `gone.lock.json` cannot be read" in capsys.readouterr().err


def test_report_of_a_lock_lies_beside_it(workplace, capsys):
    run(["plan", "-o", "plan.lock.json"])
    capsys.readouterr()
    assert run(["report", "plan.lock.json"]) == 0
    assert capsys.readouterr().out == "plan.lock.html\n"
    assert "little" in Path("plan.lock.html").read_text()


def test_no_command_that_only_plans_imports_torch(workplace):
    code = (
        "import sys; from gkdplan.cli.main import run\n"
        "for words in (['plan', '-o', 'a.json'], ['memory', 'a.json', '--html', 'a.html'],"
        " ['show', 'a.json'], ['diff', 'a.json', 'plan.toml'], ['run', '--dry-run']):\n"
        "    assert run(words) == 0, words\n"
        "heavy = {'torch', 'transformers', 'megatron', 'numpy', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
