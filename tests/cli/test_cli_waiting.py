"""A bar where somebody waits: on a terminal, and nowhere else."""

import os
import pty
import sys

import pytest

from gkdplan.cli.waiting import bar


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch):
    """What a bar, told how far it is, writes to a terminal that is stderr."""
    monkeypatch.setenv("TERM", "xterm")

    def of_a_bar(what: str, *told: tuple[int, int]) -> str:
        outer, inner = pty.openpty()
        with os.fdopen(inner, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            with bar(what) as tell:
                for done, total in told:
                    tell(done, total)
            print("end", file=stream, flush=True)
            words = b""
            while b"end" not in words:
                words += os.read(outer, 65536)
        os.close(outer)
        return words.decode().partition("end")[0]

    return of_a_bar


def test_a_bar_has_a_share_and_the_time(said):
    words = said("rows", (1, 4))
    assert "rows" in words
    assert " 25%" in words
    assert "0:00:00" in words


def test_work_of_unknown_length_has_a_bar_too(said):
    assert "the step" in said("the step")


def test_quiet_work_has_none(said, monkeypatch):
    monkeypatch.setenv("GKDPLAN_QUIET", "1")
    assert said("rows", (1, 4)) == ""


def test_off_a_terminal_nothing_is_said(capsys):
    with bar("rows") as tell:
        tell(1, 4)
    assert capsys.readouterr() == ("", "")
