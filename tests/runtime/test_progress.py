"""What a run tells while it goes on: a bar on a terminal, a line a step elsewhere."""

import re

from gkdplan.runtime.progress import Progress
from gkdplan.vocab import Phase, Source


def test_off_a_terminal_each_step_is_one_plain_line(run_plan, capsys):
    _run_two_steps(run_plan, shown=True, terminal=False)
    out, err = capsys.readouterr()
    assert out == ""
    told, *steps = err.splitlines()
    assert told == "one [word]"
    assert [re.sub(r"[\d,]+ (tok/)?s\b", r"N \1s", line) for line in steps] == [
        "step 1/24  loss 0.5000 from teacher, 7 tokens, N tok/s, N s",
        "step 2/24  loss 0.2500 from dataset, 7 tokens, N tok/s, N s",
    ]


def test_on_a_terminal_a_bar_counts_the_steps(run_plan, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _run_two_steps(run_plan, shown=True, terminal=True)
    last = capsys.readouterr().err.split("\r")[-1]
    words = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", last).split()
    assert words[:2] == ["step", "2/24"]
    line = " ".join(words)
    assert re.search(r"student loss 0.2500 dataset [\d,]+ tok/s 1.0 GiB", line), line


def test_a_quiet_run_says_nothing(run_plan, capsys, monkeypatch):
    monkeypatch.setenv("GKDPLAN_QUIET", "1")
    for terminal in (False, True):
        _run_two_steps(run_plan, shown=True, terminal=terminal)
    assert capsys.readouterr() == ("", "")


def test_other_ranks_say_nothing(run_plan, capsys):
    _run_two_steps(run_plan, shown=False, terminal=True)
    assert capsys.readouterr() == ("", "")


def _run_two_steps(run_plan, **where) -> None:
    with Progress(run_plan, 0, **where) as progress:
        progress.tell("one [word]")
        for step, source, loss, peak in (
            (1, Source.TEACHER, 0.5, 2**30),
            (2, Source.DATASET, 0.25, 0),
        ):
            progress.enter_phase(Phase.STUDENT)
            progress.finish_step(step, source, loss, num_tokens=7, peak_bytes=peak)
