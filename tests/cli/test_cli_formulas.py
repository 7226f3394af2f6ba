import json
from pathlib import Path

import pytest

from gkdplan.cli.main import run
from gkdplan.runplan.codec import decode, encode, seal


def explained(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert run(["memory", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    ["student.student_main_adam", "student.student main + Adam", "student.Student Main + Adam"],
)
def test_a_row_of_a_phase_is_named_in_several_ways(workplace, capsys, name):
    assert explained(capsys, "--explain", name).startswith("student, student main + Adam: ")


def test_a_row_alone_is_that_of_its_largest_phase(workplace, capsys):
    answer = json.loads(explained(capsys, "--explain", "activations", "--json"))
    ledger = json.loads(explained(capsys, "--json"))["ledger"]
    phases = ledger["classes"][0]["phases"]
    sizes = {phase: memory["rows"].get("activations", 0) for phase, memory in phases.items()}
    (explanation,) = answer["explanations"]
    assert explanation["num_bytes"] == max(sizes.values())
    assert sizes[explanation["phase"]] == explanation["num_bytes"]
    assert sum(term["num_bytes"] for term in explanation["terms"]) == explanation["num_bytes"]


def test_a_phase_alone_is_all_of_its_rows(workplace, capsys):
    answer = json.loads(explained(capsys, "--explain", "teacher", "--json"))
    ledger = json.loads(explained(capsys, "--json"))["ledger"]
    rows = ledger["classes"][0]["phases"]["teacher"]["rows"]
    assert {e["row"]: e["num_bytes"] for e in answer["explanations"]} == rows


def test_a_report_has_every_symbol_once_and_fits(workplace, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    report = explained(capsys, "--explain", "student")
    assert max(map(len, report.splitlines())) <= 80
    where = report.split("\nwhere\n")[1].splitlines()[:-1]
    names = [line.split()[0] for line in where]
    assert len(names) == len(set(names)) >= 5
    assert "  h  " in report
    assert "= 4 x " in report


def test_a_lock_says_its_formulas_too(workplace, capsys):
    run(["plan", "-o", "plan.lock.json"])
    of_plan = explained(capsys, "--explain", "teacher.activations")
    assert explained(capsys, "plan.lock.json", "--explain", "teacher.activations") == of_plan


def test_a_lock_of_other_numbers_is_not_explained_wrongly(workplace, capsys):
    run(["plan", "-o", "plan.lock.json"])
    lock = decode(Path("plan.lock.json").read_text())
    lock.ledger.classes[0].phases["teacher"].rows["activations"] += 1
    Path("plan.lock.json").write_text(encode(seal(lock)))
    capsys.readouterr()
    assert run(["memory", "plan.lock.json", "--explain", "teacher.activations"]) == 1
    assert "error[GK509]: the lock's numbers are not those" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("teacher.activatons", "teacher.activations"),
        ("techer.activations", "teacher.activations"),
        ("kvcache", "kv_cache"),
        ("optimiser", "optimizer"),
        ("student.student grad", "student.student_grads"),
    ],
)
def test_an_unknown_number_is_answered_with_the_nearest(workplace, capsys, name, near):
    assert run(["memory", "--explain", name]) == 1
    shown = capsys.readouterr().err
    assert f"error[GK509]: the fullest ranks have no number `{name}`" in shown
    assert f"help: `--explain {near}`" in shown


def test_a_name_that_is_near_nothing_is_answered_with_what_there_is(workplace, capsys):
    assert run(["memory", "--explain", "", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert finding["help"] == []
    assert finding["notes"][0].startswith("phases: generate, teacher, student")
