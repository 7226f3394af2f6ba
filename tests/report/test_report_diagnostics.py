import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkdplan.diagnostics import Diagnostic, Span, error, note, warning
from gkdplan.report.diagnostics import check_json, render, summary, write_diagnostics
from gkdplan.report.verdict import verdict
from gkdplan.runplan.model import RunPlan

FINDING = error(
    "GK203",
    "`student` has 8 kv heads, not divisible by tensor degree 3",
    "student.parallel.tensor",
    label="each rank would own part of a head",
    notes=("num_key_value_heads = 8, from Qwen3-8B/config.json",),
    help=("set `student.parallel.tensor` to 1, 2, 4 or 8",),
)


def at(line: int, column: int, length: int = 1) -> Diagnostic:
    return FINDING.at(Span("plans/qwen3_8b.toml", line, column, length))


def caret_line(text: str, column: int, length: int = 1, width: int = 80) -> tuple[str, str]:
    """The quoted line and the line of carets below it, without their margin."""
    lines = render(at(1, column, length), text, width).split("\n")
    return lines[3].partition("| ")[2], lines[4].partition("| ")[2]


def test_a_finding_looks_as_rustc_would_print_it() -> None:
    text = "\n" * 20 + "tensor = 3\n"
    expected = """\
error[GK203]: `student` has 8 kv heads, not divisible by tensor degree 3
  --> plans/qwen3_8b.toml:21:10
   |
21 | tensor = 3
   |          ^ each rank would own part of a head
   = note: num_key_value_heads = 8, from Qwen3-8B/config.json
   = help: set `student.parallel.tensor` to 1, 2, 4 or 8"""
    assert render(at(21, 10), text) == expected


def test_a_finding_without_a_place_quotes_nothing_and_keeps_its_reason() -> None:
    lines = render(FINDING, "").split("\n")
    assert lines[1:] == [
        " = note: each rank would own part of a head",
        " = note: num_key_value_heads = 8, from Qwen3-8B/config.json",
        " = help: set `student.parallel.tensor` to 1, 2, 4 or 8",
    ]


def test_a_tab_and_a_wide_character_move_the_caret() -> None:
    assert caret_line("\tx = 1", 6)[1].startswith(" " * 8 + "^ ")
    assert caret_line('name = "蒸馏" # x', 13)[1].startswith(" " * 14 + "^ ")
    assert caret_line('name = "蒸馏"', 8, 4)[1].startswith(" " * 7 + "^" * 6 + " ")


def test_a_long_line_is_cut_around_the_caret() -> None:
    text = "x = [" + "1, " * 60 + "BAD, " + "1, " * 60 + "]"
    quoted, carets = caret_line(text, text.index("BAD") + 1, 3)
    assert len(quoted) <= 76
    start = carets.index("^")
    assert quoted[start : start + 3] == "BAD"
    assert carets[start:].startswith("^^^ ")


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    assert caret_line("x = \x1b[31m", 5)[0] == "x = \ufffd[31m"


@given(st.lists(st.text("abcd efgh", min_size=1), max_size=3), st.integers(40, 120))
def test_notes_and_help_stay_within_the_width(sentences: list[str], width: int) -> None:
    long = replace(at(1, 1), message="m", label="l", notes=tuple(sentences), help=tuple(sentences))
    longest_word = max((len(w) for s in sentences for w in s.split()), default=0)
    printed = render(long, "x = 1", width).split("\n")[5:]
    assert all(len(line) <= max(width, 10 + longest_word) for line in printed)
    words = [
        word for line in printed for word in line.split() if word not in ("=", "note:", "help:")
    ]
    # A word wider than a line is broken, so the letters are compared and not the words.
    assert "".join(words) == "".join("".join(sentence.split()) for sentence in sentences * 2)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([], ""),
        ([note("GK110", "n")], ""),
        ([error("GK001", "a")], "1 error"),
        ([error("GK001", "a"), warning("GK302", "w"), error("GK002", "b")], "2 errors, 1 warning"),
        ([warning("GK302", "w"), warning("GK302", "w")], "2 warnings"),
    ],
)
def test_the_summary_counts_errors_and_warnings(findings: list[Diagnostic], expected: str) -> None:
    assert summary(findings) == expected


def test_findings_are_parted_by_a_line_and_counted_at_the_end() -> None:
    file = io.StringIO()
    write_diagnostics([error("GK001", "first"), warning("GK302", "second")], "", file)
    assert (
        file.getvalue() == "error[GK001]: first\n\nwarning[GK302]: second\n\n1 error, 1 warning\n"
    )


def test_nothing_is_written_where_nothing_was_found() -> None:
    file = io.StringIO()
    write_diagnostics([], "", file)
    assert file.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_appears_on_a_terminal_only_and_changes_no_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, coloured = io.StringIO(), Terminal()
    for file in (plain, coloured):
        write_diagnostics([at(1, 5)], "x = 3", file)
    assert "\x1b[" in coloured.getvalue()
    words = re.sub(r"\x1b\[[0-9;]*m", "", coloured.getvalue())
    assert [line.rstrip() for line in words.split("\n")] == plain.getvalue().split("\n")


def test_the_json_has_the_keys_of_the_contract(run_plan: RunPlan) -> None:
    answer = json.loads(
        json.dumps(check_json([at(21, 10), warning("GK302", "w")], run_plan.ledger))
    )
    assert answer["schema_version"] == 1
    assert answer["ok"] is False
    assert answer["diagnostics"][0] == {
        "code": "GK203",
        "severity": "error",
        "message": "`student` has 8 kv heads, not divisible by tensor degree 3",
        "path": "student.parallel.tensor",
        "span": {"file": "plans/qwen3_8b.toml", "line": 21, "column": 10, "length": 1},
        "label": "each rank would own part of a head",
        "notes": ["num_key_value_heads = 8, from Qwen3-8B/config.json"],
        "help": ["set `student.parallel.tensor` to 1, 2, 4 or 8"],
    }
    assert answer["diagnostics"][1]["span"] is None
    assert answer["summary"] == {
        "num_errors": 1,
        "num_warnings": 1,
        "peak_bytes": run_plan.ledger.peak_bytes,
        "budget_bytes": run_plan.ledger.budget_bytes,
        "verdict": "fits",
    }


def test_the_json_without_a_run_plan_has_null_figures() -> None:
    answer = check_json([], None)
    assert answer["ok"] is True
    assert answer["summary"]["peak_bytes"] is None
    assert answer["summary"]["verdict"] is None


def test_the_verdict_is_one_line(run_plan: RunPlan) -> None:
    ledger = replace(run_plan.ledger, peak_bytes=3 * 2**29, budget_bytes=4 * 2**30)
    line = verdict(replace(run_plan, ledger=ledger))
    assert line == "quickstart: fits, peak 1.5 GiB of 4.0 GiB in student"
