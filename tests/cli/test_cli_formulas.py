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
    assert f"error[GK509]: there is no number `{name}` on ranks 0-1" in shown
    assert f"help: `--explain {near}`" in shown


def test_a_name_that_is_near_nothing_is_answered_with_what_there_is(workplace, capsys):
    assert run(["memory", "--explain", "", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert finding["help"] == []
    assert finding["notes"][0].startswith("phases: generate, teacher, student")


@pytest.fixture
def of_two_stages(workplace):
    """Stage 0 has the embedding, stage 1 the layers after it, the head and the loss."""
    text = Path("plan.toml").read_text()
    Path("plan.toml").write_text(text.replace("tensor = 2", "pipeline = 2"))


def test_classes_that_differ_have_a_line_each(of_two_stages, capsys):
    shown = explained(capsys, "--explain", "teacher.activations").splitlines()
    classes = json.loads(explained(capsys, "--json"))["ledger"]["classes"]
    sizes = [memory["phases"]["teacher"]["rows"]["activations"] for memory in classes]
    assert sizes[0] != sizes[1]
    for stage, size in enumerate(sizes):
        (line,) = [line for line in shown if line.startswith(f"  stage {stage}: ")]
        assert line.endswith(f"({size:,} B) on rank {stage}")
    first, second = shown[0].split(" on rank ")
    assert f"({sizes[int(second)]:,} B)" in first


def test_classes_that_do_not_differ_have_none(workplace, capsys):
    assert "  stage 0: " not in explained(capsys, "--explain", "teacher.activations")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_chooses_its_class(of_two_stages, capsys, rank):
    arguments = ("--explain", "student.student_params", "--rank", str(rank))
    answer = json.loads(explained(capsys, *arguments, "--json"))
    ledger = json.loads(explained(capsys, "--json"))["ledger"]
    sizes = [m["phases"]["student"]["rows"]["student params"] for m in ledger["classes"]]
    assert sizes[0] != sizes[1]
    (explanation,) = answer["explanations"]
    assert explanation["num_bytes"] == sizes[rank]
    assert explanation["classes"] == [
        {"ranks": [[0, 1]], "stage": 0, "num_bytes": sizes[0]},
        {"ranks": [[1, 2]], "stage": 1, "num_bytes": sizes[1]},
    ]


def test_a_number_of_other_ranks_is_answered_with_one_of_them(of_two_stages, capsys):
    assert run(["memory", "--explain", "teacher.payload", "--rank", "0"]) == 1
    shown = capsys.readouterr().err
    assert "error[GK509]: there is no number `teacher.payload` on rank 0" in shown
    assert "help: `--explain teacher.payload --rank 1`" in shown


@pytest.mark.parametrize("rank", ["2", "-1"])
def test_a_rank_that_is_not_there_is_refused(workplace, capsys, rank):
    assert run(["memory", "--explain", "student", "--rank", rank]) == 1
    shown = capsys.readouterr().err
    assert f"error[GK509]: the plan has no rank {rank}" in shown
    assert "help: `--rank` takes 0 to 1" in shown


def test_a_rank_without_a_number_to_explain_is_a_wrong_use(workplace, capsys):
    assert run(["memory", "--rank", "0"]) == 2
    assert "`--explain NAME`" in capsys.readouterr().err
