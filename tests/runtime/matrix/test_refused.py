"""Layouts beside the matrix that megatron-core cannot do, or does otherwise than one process: the
compiler says why."""

from pathlib import Path

import pytest
from layouts import UNIFORM, VIRTUAL, Case, case
from layouts import WHOLE_SEQUENCE as WHOLE
from pairs import make_pair
from tiny_plans import plan_text

from gkdplan.cli.compiling import compile_file

DENSE, EXPERTS = "qwen3 to llama", "experts to experts"
REFUSED = {
    "T3 of 4 heads": ("GK202", case(DENSE, 3, tensor=3)),
    "P3 of 4 layers": ("GK210", case(DENSE, 3, "pipeline = 3")),
    "V2 of a stage of 1 layer": ("GK213", case(DENSE, 2, *VIRTUAL, "first_stage_layers = 1")),
    "V2 of one stage": ("GK215", case(DENSE, 1, "virtual_pipeline = 2")),
    "P2 V2 of 3 micro-batches": ("GK216", case(DENSE, 2, *VIRTUAL, rows=6)),
    "E3 of 4 experts": ("GK220", case(EXPERTS, 3, "expert = 3")),
    "E2 of a dense model": ("GK222", case(DENSE, 2, "expert = 2")),
    "E2 T2 with whole sequences": ("GK224", case(EXPERTS, 2, "expert = 2", WHOLE, tensor=2)),
    "T2 of whole experts": ("GK226", case(EXPERTS, 2, tensor=2)),
    "units of 2 in a stage of 1 layer": (
        "GK234",
        case(DENSE, 2, "pipeline = 2", "first_stage_layers = 1", recompute=UNIFORM),
    ),
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


def codes_of(case: Case, home: Path) -> set[str]:
    plan = home / "plan.toml"
    teacher = f"\n[teacher.parallel]\n{case.teacher}\n" if case.teacher else ""
    plan.write_text(plan_text(home, home / "run", **case.changes) + teacher, encoding="utf-8")
    return {finding.code for finding in compile_file(str(plan)).errors_beside()}


@pytest.mark.parametrize("name", REFUSED)
def test_the_compiler_says_why(name: str, homes: Path) -> None:
    code, refused = REFUSED[name]
    home = homes / refused.pair.replace(" ", "_")
    if not home.exists():
        make_pair(refused.pair, home)
    assert code in codes_of(refused, home)
