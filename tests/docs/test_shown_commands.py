"""What a page shows is what the commands print, typed one after the other at 80 columns.

A block of TOML with a title is a file of the page, and lies in the working directory. A console
with a title shows one run, whose seconds and samples are its own: it is typed with `-m grid`, and
only its exit code is looked at. `python tests/docs/retype.py PAGE` writes a page's output anew.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, fences, read, typed
from terminal import FILES, enter, lay, terminal

from gkdplan.cli.main import COMMANDS, run

SHOWING = [page for page in PAGES if fences(page, "console")]
OF_ONE_RUN = [page for page in SHOWING if any(fence.title for fence in fences(page, "console"))]


@pytest.fixture(autouse=True)
def _terminal(tmp_path: Path) -> Iterator[None]:
    with terminal(tmp_path):
        yield


@pytest.mark.parametrize("page", SHOWING)
def test_a_page_shows_what_its_commands_print(page: str):
    for fence in fences(page, "console", *FILES):
        if fence.language != "console":
            lay(fence)
        elif not fence.title:
            for command, printed in typed(fence.text):
                done = enter(command)
                assert done.shows(printed), f"$ {command}\n{done.both}"


@pytest.mark.grid
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", OF_ONE_RUN)
def test_a_page_can_be_typed_from_top_to_bottom(page: str):
    for fence in fences(page, "console", *FILES):
        if fence.language != "console":
            lay(fence)
            continue
        for command, _ in typed(fence.text):
            done = enter(command)
            assert done.status == 0 or not fence.title, f"$ {command}\n{done.both}"


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_names_is_one(page: str, capsys: pytest.CaptureFixture[str]):
    named = re.findall(r"`gkdplan ([a-z]+)([^`\n]*)`|^\$ gkdplan ([a-z]+)(.*)$", read(page), re.M)
    for command, rest in {(a or c, b or d) for a, b, c, d in named}:
        assert command in COMMANDS, f"gkdplan {command}"
        options = re.findall(r"--[a-z][a-z-]*", rest)
        below = re.findall(r"^ (swift|hf|slurm|torchrun|k8s)\b", rest)
        assert run([command, *below, "--help"]) == 0
        offered = capsys.readouterr().out
        assert [name for name in options if name not in offered] == [], f"gkdplan {command}{rest}"


def test_something_is_shown():
    assert len(SHOWING) >= 10
