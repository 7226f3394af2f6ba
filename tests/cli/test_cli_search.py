"""`gkdplan search`: its table, its JSON, the plan it writes and its exit codes."""

import json
import sys
from pathlib import Path

import pytest

from gkdplan.cli.compiling import compile_file
from gkdplan.cli.main import run
from gkdplan.planner.search.searching import search
from gkdplan.spec.edit import edited
from gkdplan.spec.load import load_plan


def searched(capsys, *arguments: str) -> tuple[int, str, str]:
    status = run(["search", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_fastest_layouts_are_a_table_of_eighty_columns(workplace, capsys):
    status, out, _ = searched(capsys, "--top", "3")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == [
        "mesh", "teacher", "micro", "recompute", "offload", "peak", "free", "s/step", "tok/s",
    ]  # fmt: skip
    meshes = [line.split()[0] for line in lines[1:4]]
    assert {*meshes} <= {"1/1/1/1/2", "2/1/1/1/1"}
    assert lines[4].startswith("mesh is tensor/pipeline/context/expert/data")
    assert max(map(len, lines)) <= 80
    assert "seconds are predicted" in " ".join(" ".join(lines).split())
    assert "the plan's own layout: 2/1/1/1/1" in out


def test_json_has_the_counts_and_the_layouts(workplace, capsys):
    status, out, _ = searched(capsys, "--json", "--planned")
    answer = json.loads(out)
    assert status == 0
    assert answer["ok"]
    assert answer["counts"]["planned"] == 0
    assert len(answer["options"]) == 10
    best = answer["options"][0]
    assert best["headroom_bytes"] == best["budget_bytes"] - best["peak_bytes"]
    assert answer["own"]["changes"] == {}
    assert answer["edits"] == []


def test_the_best_becomes_a_plan_that_checks(workplace, capsys):
    Path("plan.toml").write_text("# mine\n" + Path("plan.toml").read_text())
    _, out, _ = searched(capsys, "--json", "-o", "best.toml")
    best = json.loads(out)["options"][0]
    text = Path("best.toml").read_text()
    assert text.startswith("# mine\n")
    chosen, own = (
        load_plan(name, Path(name).read_text()).plan for name in ("best.toml", "plan.toml")
    )
    assert chosen is not None
    assert own is not None
    assert chosen.student.parallel.tensor == best["student"]["tensor"]
    assert chosen.batch.micro == best["micro_rows"]
    assert chosen.distill == own.distill
    assert run(["check", "best.toml"]) == 0


WITHOUT_SEQUENCE = "tensor = 2\nsequence = false"


@pytest.mark.parametrize("own", ["", "[teacher.parallel]\ntensor = 2\n"], ids=["none", "own"])
@pytest.mark.parametrize("axes", ["tensor = 2", WITHOUT_SEQUENCE], ids=["", "no sequence"])
def test_every_layout_can_be_written_as_the_plan_that_it_is(workplace, own, axes):
    text = Path("plan.toml").read_text().replace("tensor = 2", axes, 1) + own
    Path("plan.toml").write_text(text)
    compiled = compile_file("plan.toml")
    found = search(compiled.plan, compiled.facts, top=300, include_planned=True)
    assert len(found.plans) > 100
    for option, layout in zip(found.ranking.options, found.plans, strict=True):
        written = load_plan("best.toml", edited(text, dict(option.changes)))
        assert written.plan is not None
        assert written.plan.model_dump() == layout.model_dump()


def test_no_file_is_overwritten(workplace, capsys):
    before = Path("plan.toml").read_text()
    status, _, err = searched(capsys, "-o", "plan.toml")
    assert status == 1
    assert "error[GK520]: `plan.toml` is there already" in err
    assert Path("plan.toml").read_text() == before


def test_where_nothing_fits_the_exit_code_is_1_and_edits_are_named(workplace, capsys):
    workplace.write_plan(limit="2 GiB")
    status, out, _ = searched(capsys, "-o", "best.toml")
    assert status == 1
    assert out.startswith("no layout that was tried keeps every rule and fits")
    assert "slower 0" in out
    assert "the fastest that does not fit" in out
    assert not Path("best.toml").exists()


def test_a_plan_that_does_not_fit_gets_edits_with_their_bytes(workplace, capsys):
    workplace.write_plan(limit="10 GiB")
    text = Path("plan.toml").read_text().replace('offload = "cpu"', 'offload = "none"')
    Path("plan.toml").write_text(text)
    status, out, _ = searched(capsys, "--json")
    answer = json.loads(out)
    assert answer["own"]["verdict"] == "over"
    assert any(edit["saved_bytes"] > 0 for edit in answer["edits"])
    assert status == (0 if answer["options"] else 1)


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_an_error_that_no_layout_mends_is_shown(workplace, capsys, as_json):
    length = "max_completion_length = 16"
    text = Path("plan.toml").read_text().replace(length, f"{length}\ntensor = 1")
    Path("plan.toml").write_text(text)
    status, out, err = searched(capsys, *as_json)
    assert status == 1
    assert "GK590" in (out if as_json else err)


def test_a_layout_that_breaks_a_rule_is_searched_all_the_same(workplace, capsys):
    text = Path("plan.toml").read_text().replace("tensor = 2", "tensor = 3")
    Path("plan.toml").write_text(text)
    status, out, _ = searched(capsys)
    assert status == 0
    assert "2/1/1/1/1" in out
    assert "own layout" not in out


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_on_a_terminal_a_bar_counts_the_meshes(workplace, capsys, monkeypatch, quiet):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = searched(capsys, "--top", "1", *quiet)
    assert status == 0
    assert out.startswith("mesh ")
    assert ("meshes" in err) == (not quiet)
