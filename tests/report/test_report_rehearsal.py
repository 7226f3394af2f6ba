"""The table of `gkdplan verify`."""

import math

import pytest

from gkdplan.report.rehearsal import rehearsal_json, rehearsal_report
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.rehearsal import Check, Claim

GOOD = (
    Check(Claim.ITSELF, "loss", 0.0, 1e-7),
    Check(Claim.ITSELF, "gradient", 3e-9, 1e-6, "model.norm.weight"),
    Check(Claim.LAYOUT, "loss", 1.4e-8, 1e-6),
    Check(Claim.LAYOUT, "gradient", 2.1e-6, 1e-4, "model.norm.weight"),
)
MISSING = Check(Claim.SPLIT, "gradient", math.inf, 1e-4, "lm_head.weight")


def test_every_number_has_a_line_beside_its_tolerance(run_plan: RunPlan) -> None:
    report = rehearsal_report(run_plan, run_plan, GOOD, 80)
    assert "a teacher that is the student: largest gradient   3.0e-09      1e-06  ok\n" in report
    assert "this layout beside one process: gradient          2.1e-06      1e-04  ok\n" in report
    assert "\nall within it\n" in report
    assert max(map(len, report.splitlines())) <= 80


def test_a_miss_names_the_parameter_that_is_farthest_off(run_plan: RunPlan) -> None:
    report = rehearsal_report(run_plan, run_plan, (*GOOD, MISSING), 80)
    assert "inf      1e-04  MISS lm_head.weight\n" in report
    assert "\n1 number beyond tolerance\n" in report


@pytest.mark.parametrize(("checks", "ok"), [(GOOD, True), ((*GOOD, MISSING), False)])
def test_json_says_what_holds_and_has_no_infinity(checks, ok, run_plan: RunPlan) -> None:
    answer = rehearsal_json(run_plan, run_plan, checks)
    assert answer["ok"] is ok
    assert [row["ok"] for row in answer["checks"]] == [check.holds for check in checks]
    assert all(
        row["measured"] is None or math.isfinite(row["measured"]) for row in answer["checks"]
    )
