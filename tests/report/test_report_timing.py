from dataclasses import replace

import pytest

from gkdplan.report.timing import timing_section
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import LoraPlan
from gkdplan.runplan.timing import Seconds
from gkdplan.vocab import Phase


def line_of(section: str, start: str) -> str:
    return next(line for line in section.splitlines() if line.startswith(start))


def test_every_phase_has_its_likely_seconds_and_its_range(run_plan):
    section = timing_section(run_plan, 200)
    assert line_of(section, "student").split()[1:5] == ["7", "s", "5-14", "s"]
    assert "compute 5 s, loss 2 s" in line_of(section, "student")
    assert "67 tokens/s" in line_of(section, "step")
    assert "70% of steps sample" in line_of(section, "step")


def test_the_largest_part_comes_first_and_less_than_a_hundredth_is_left_out(run_plan):
    section = timing_section(run_plan, 200)
    assert line_of(section, "generate").endswith("tokens one by one 7 s, student: prompts 1 s")
    assert "offload" not in section  # 0.039 s of 4 s


def test_it_says_that_nothing_was_measured_and_what_was_assumed(run_plan):
    section = timing_section(run_plan, 200)
    assert "predicted, not measured" in section.splitlines()[0]
    assumed = line_of(section, "assumed")
    assert "rows of the longest length" in assumed
    assert "flop share 50%" in assumed
    assert "layer launch 0.5 ms" in assumed


def test_it_says_what_is_assumed_of_adapters_and_of_a_payload_that_travels(run_plan):
    student = replace(run_plan.models.student, lora=LoraPlan(8, 16.0, 0.0, ("q_proj",), 1000))
    layout = replace(run_plan.layout, teacher=AxisDegrees(1, False, 2))
    models = replace(run_plan.models, student=student)
    assumed = line_of(
        timing_section(replace(run_plan, models=models, layout=layout), 400), "assumed"
    )
    assert "no weight gradients of the frozen base" in assumed
    assert "no part of the payload made where it is needed" in assumed
    assert "frozen" not in line_of(timing_section(run_plan, 400), "assumed")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(run_plan, width):
    slow = {phase: Seconds(1e5, 2e5, 4e5) for phase in run_plan.timing.phases}
    timing = replace(run_plan.timing, phases=slow, step=slow[Phase.STUDENT])
    lines = timing_section(replace(run_plan, timing=timing), width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
