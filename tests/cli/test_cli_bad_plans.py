"""Every bad plan prints exactly the text beside it."""

import re
from pathlib import Path

import pytest
from bad_plan_world import BAD_PLANS, EXAMPLES, build_world, finding_of, findings, outcome

import gkdplan
from gkdplan.codes import CODES

PACKAGE = Path(gkdplan.__file__).parent
PLANS = sorted(BAD_PLANS.glob("*.toml"))
CODES_WITH_PLANS = sorted({plan.name.partition("_")[0] for plan in PLANS})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("plan", PLANS, ids=[plan.stem for plan in PLANS])
def test_a_bad_plan_prints_exactly_this(plan: Path, world: Path) -> None:
    assert outcome(plan, world) == plan.with_suffix(".txt").read_text()


@pytest.mark.parametrize("plan", PLANS, ids=[plan.stem for plan in PLANS])
def test_a_bad_plan_shows_the_code_that_names_it(plan: Path) -> None:
    expected = plan.with_suffix(".txt").read_text()
    block = finding_of(plan.name.partition("_")[0], expected)
    assert block is not None
    stops = any(printed.startswith("error[") for printed in findings(expected))
    assert expected.startswith("exit 1\n" if stops else "exit 0\n")


def codes_in(*rooms: str) -> set[str]:
    """The codes that the source of some rooms names."""
    files = [file for room in rooms for file in (PACKAGE / room).rglob("*.py")]
    found = (re.findall(r"\"(GK\d{3})\"", file.read_text()) for file in files)
    return {code for codes in found for code in codes}


def test_every_code_that_check_can_print_has_a_bad_plan() -> None:
    """But what a package that is not installed would read (tests/facts/test_facts_tables.py)."""
    printed = codes_in("spec", "families", "facts", "planner") | {"GK005"}
    assert printed <= CODES.keys()
    assert printed - set(CODES_WITH_PLANS) == {"GK469"}


def test_every_code_is_in_the_table_and_every_row_is_used() -> None:
    rooms = ("spec", "families", "facts", "runplan", "planner", "report", "runtime", "swift", "cli")
    assert codes_in(*rooms) == CODES.keys()


def test_an_example_of_explain_is_what_a_bad_plan_prints() -> None:
    shown = {code: (EXAMPLES / f"{code}.txt").read_text() for code in CODES_WITH_PLANS}
    for code, example in shown.items():
        printed = [finding_of(code, plan.with_suffix(".txt").read_text()) for plan in PLANS]
        assert example.removesuffix("\n") in printed
