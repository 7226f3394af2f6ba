"""Files that the commands write and read: nothing of another kind is overwritten, whatever it is
called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gkdplan.cli.main import run


def test_a_page_replaces_a_page_and_nothing_else(workplace, capsys):
    assert run(["memory", "--html", "page.html"]) == 0
    assert run(["memory", "--html", "page.html"]) == 0
    plan = Path("plan.toml").read_text()
    run(["plan", "-o", "plan.lock.json"])
    lock = Path("plan.lock.json").read_text()
    for arguments in (
        ["memory", "--html", "plan.toml"],
        ["report", "plan.lock.json", "-o", "plan.toml"],
        ["report", "plan.lock.json", "-o", "plan.lock.json"],
    ):
        assert run(arguments) == 1
        assert "error[GK508]" in capsys.readouterr().err
    assert Path("plan.toml").read_text() == plan
    assert Path("plan.lock.json").read_text() == lock


@pytest.mark.parametrize("name", ["/", ".", "plan.toml/x", "none/x", "x" * 300, "\0", "rows.jsonl"])
@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_a_file_that_cannot_be_written_is_a_finding(workplace, capsys, name, as_json):
    before = sorted(workplace.path.rglob("*"))
    for arguments in (["plan", "-o", name], ["memory", "--html", name]):
        assert run([*arguments, *as_json]) == 1
        captured = capsys.readouterr()
        if as_json:
            assert json.loads(captured.out)["diagnostics"][0]["code"].startswith("GK50")
        else:
            assert "error[GK50" in captured.err
    assert sorted(workplace.path.rglob("*")) == before


@pytest.mark.parametrize("name", ["x" * 300, "\0", "none", "rows.jsonl"])
def test_a_file_that_cannot_be_read_is_a_finding(workplace, capsys, name):
    for arguments in (["memory", f"{name}.json"], ["report", name], ["show", f"{name}.json"]):
        assert run(arguments) == 1
        assert "error[GK50" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["plan"], ["check"], ["check", "none.toml", "--json"]])
def test_a_reader_that_leaves_early_is_no_failure_of_the_program(workplace, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from gkdplan.cli.main import main; main()", *arguments]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert ended.returncode == 1
    assert "Error" not in ended.stderr


def test_closed_streams_are_no_failure_of_the_program(workplace):
    command = f"{sys.executable} -c 'from gkdplan.cli.main import main; main()' check >&- 2>&-"
    assert subprocess.run(command, shell=True).returncode == 0
