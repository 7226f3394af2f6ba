"""`gkdplan watch`: a run as far as it is, in the width of a terminal."""

import json

import pytest

from gkdplan.cli.main import run as command
from gkdplan.report.run_record import read_run
from gkdplan.report.watching import sparkline, watching, watching_json
from gkdplan.runplan.codec import encode
from gkdplan.vocab import Phase


@pytest.fixture
def write(run_plan, tmp_path):
    """Writes a run of so many steps of 4 s and 200 tokens each, and reads it."""

    def write(num_steps: int):
        (tmp_path / "plan.lock.json").write_text(encode(run_plan))
        lines = [{"step": 0, "eval": {"jsd": 0.5, "cross_entropy": 4.0, "num_tokens": 9}}]
        for step in range(1, num_steps + 1):
            lines.append(
                {
                    "step": step,
                    "loss": 3.0 / step,
                    "source": "student",
                    "num_tokens": 200,
                    "time_s": {"generate": 3.0, "student": 1.0},
                    "peak_bytes": {"student": 2**30} if step == 1 else {},
                }
            )
        lines.append(
            {"step": num_steps, "eval": {"jsd": 0.25, "cross_entropy": 3, "num_tokens": 9}}
        )
        said = {"step": 1, "source": "student", "question": "Where?", "completion": "over\nthere"}
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / "completions.jsonl").write_text(json.dumps(said) + "\n")
        return read_run(tmp_path)

    return write


def test_a_run_on_its_way_has_its_pace_and_what_is_left(write):
    run = write(12)
    planned = run.run_plan.ledger.classes[0].phases[Phase.STUDENT].peak_bytes
    assert run.run_plan.training.num_steps == 24
    lines = watching(run, 80).splitlines()
    assert lines[0] == "step        12 of 24, from the student, 48 s left"
    assert lines[1].endswith("█▄▃▂▂▂▁▁▁▁▁▁  3.0000 -> 0.2500")
    assert lines[2] == "speed       50 response tokens/s; generate 3.00 s, student 1.00 s"
    assert lines[3] == "held-out    JSD 0.5000 -> 0.2500 after step 12"
    assert lines[4] == f"memory      peak 1.0 GiB in student, {planned / 2**30:.1f} GiB planned"
    assert lines[5] == "student     'over there'"
    answer = watching_json(run)
    assert (answer["remaining_s"], answer["tokens_per_s"]) == (48.0, 50.0)


def test_a_run_that_is_at_its_end_says_so(write):
    assert "24 of 24, from the student, finished" in watching(write(24), 80)


def test_a_run_without_a_step_says_that(write):
    run = write(0)
    assert watching(run, 80).splitlines()[0] == "step        0 of 24: it has not finished a step"
    assert watching_json(run)["remaining_s"] is None


def test_no_line_is_wider_than_the_terminal(write):
    run = write(24)
    for width in (60, 80, 120):
        assert max(map(len, watching(run, width).splitlines())) <= width


def test_bars_pass_over_what_is_not_finite():
    assert sparkline([1.0, float("nan"), 2.0, float("inf")], 9) == "▁█"
    assert sparkline([2.0, 2.0], 9) == "▁▁"
    assert sparkline([float("nan")], 9) == ""
    assert len(sparkline(range(100), 7)) == 7


def test_the_command_shows_the_moment_where_there_is_no_terminal(write, tmp_path, capsys):
    run = write(3)
    assert command(["watch", str(tmp_path)]) == 0
    assert capsys.readouterr().out.rstrip("\n") == watching(run, 80)
    assert command(["watch", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 3
    assert command(["watch", str(tmp_path / "none")]) == 1
    assert "GK506" in capsys.readouterr().err
