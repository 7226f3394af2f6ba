"""What the README shows is what the commands print, at 80 columns."""

import re
import shlex
from pathlib import Path

import pytest

from gkdplan.cli.main import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```console\n\$ gkdplan ([^\n]*)\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[command for command, _ in SHOWN])
def test_a_shown_command_prints_what_is_shown(command, output, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert run(shlex.split(command)) == 0
    assert capsys.readouterr().out.rstrip() == output.rstrip()


def test_the_two_commands_stand_first_and_ci_calls_the_second():
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == [
        "make quickstart",
        "make test",
    ]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"quickstart", "test"} <= set(targets)
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "exec make test"


def test_the_shown_plan_is_the_file():
    (shown,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert shown == (ROOT / "plans/qwen2.5-7b-to-3b.toml").read_text(encoding="utf-8")


def test_every_link_and_path_leads_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    paths = re.findall(r"`((?:gkdplan|plans|tests|docs)/[^`*\s]+)`", README)
    assert links
    assert paths
    missing = [path for path in (*links, *paths) if not (ROOT / path).exists()]
    assert missing == []


def test_something_is_shown():
    assert len(SHOWN) >= 2
