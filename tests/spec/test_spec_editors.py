"""An editor's TOML tool (taplo) takes the plans that are shipped, by the schema that they name in
their first line, and refuses those that are wrong by their shape."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANS = sorted((ROOT / "plans").glob("*.toml"))
BAD = sorted(
    plan
    for code in ("GK002", "GK003", "GK004")
    for plan in (ROOT / "tests/bad_plans").glob(f"{code}_*.toml")
)
SAID = {"GK002": "Additional properties", "GK003": "", "GK004": "is a required property"}


def lint(plan: Path) -> subprocess.CompletedProcess[str]:
    taplo = Path(sys.executable).with_name("taplo")
    command = [taplo, "lint", "--colors", "never", plan.name]
    return subprocess.run(command, cwd=plan.parent, capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "schemas", tmp_path / "schemas")
    (tmp_path / "plans").mkdir()
    return tmp_path


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.stem)
def test_a_shipped_plan_is_good(plan: Path):
    assert plan.read_text().startswith("#:schema ../schemas/plan.schema.json\n")
    checked = lint(plan)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("plan", BAD, ids=lambda plan: plan.stem)
def test_a_plan_of_another_shape_is_refused(plan: Path, checkout: Path):
    copy = checkout / "plans" / plan.name
    copy.write_text("#:schema ../schemas/plan.schema.json\n" + plan.read_text())
    checked = lint(copy)
    assert checked.returncode == 1, plan.name
    assert SAID[plan.name[:5]] in checked.stderr
