from pathlib import Path

from gkdplan.report.colour import coloured
from gkdplan.report.ending import ending
from gkdplan.report.outline import outline

PLACES = {"student": Path("runs/q/checkpoints/step_24/student"), "report": Path("runs/q/r.html")}
SUMMARY = {
    "held_out_before": {"jsd": 0.5, "cross_entropy": 4.0, "num_tokens": 9},
    "held_out_after": {"jsd": 0.25, "cross_entropy": 3.0, "num_tokens": 9},
    "memory": {
        "student": {"planned_bytes": 2**30, "measured_bytes": 2**30 - 2**24},
        "teacher": {"planned_bytes": 2**29, "measured_bytes": 2**29},
    },
    "samples": {
        "teacher": {"prompt": "Say hello.", "completion": "Hello there.\nHow are you?"},
        "student": {"prompt": "Say hello.", "completion": "Hello.\x1b[2J"},
    },
}


def test_the_ending_says_what_was_learned_and_where_it_lies():
    assert ending(SUMMARY, PLACES).splitlines() == [
        "held-out, nats a token    before     after",
        "JSD                       0.5000    0.2500  -50%",
        "cross-entropy             4.0000    3.0000  -25%",
        "",
        "memory, fullest rank       planned    measured",
        "teacher                  512.0 MiB   512.0 MiB  +0.0%",
        "student                    1.0 GiB  1008.0 MiB  -1.6%",
        "",
        "prompt    Say hello.",
        "teacher   Hello there. How are you?",
        "student   Hello.\N{REPLACEMENT CHARACTER}[2J",
        "",
        "student   runs/q/checkpoints/step_24/student",
        "report    runs/q/r.html",
    ]


def test_an_ending_without_held_out_rows_or_samples_says_only_where():
    summary = {"held_out_before": None, "held_out_after": None, "samples": {}}
    assert ending(summary, PLACES).splitlines()[0].startswith("student   runs/q")


def test_colour_changes_no_character(run_plan):
    plain = outline(run_plan, 80)
    assert coloured(plain).plain == plain
    styles = {plain[s.start : s.end]: s.style for s in coloured(plain).spans}
    assert styles["fits"] == "bold green"
    assert styles["vocabulary"] == "cyan"
    assert styles["student params"] == "cyan"
