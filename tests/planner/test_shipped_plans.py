"""Every plan that is shipped compiles, fits, and prices what its comment promises."""

from pathlib import Path

import pytest

from gkdplan.diagnostics import Severity
from gkdplan.facts.lookup import look_up
from gkdplan.facts.model import ModelRef
from gkdplan.planner.compiler import compile_plan
from gkdplan.runplan.model import RunPlan
from gkdplan.spec.load import load_plan
from gkdplan.vocab import Phase, Role, Source, Verdict

ROOT = Path(__file__).parents[2]
PLANS = sorted(path.name for path in (ROOT / "plans").glob("*.toml"))


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, tmp_path):
    """Models come from bundled facts, whatever this machine's cache holds."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))


def compiled(name: str) -> RunPlan:
    loaded = load_plan(name, (ROOT / "plans" / name).read_text())
    assert loaded.plan is not None, loaded.diagnostics
    plan = loaded.plan
    facts, found = look_up(
        ModelRef(Role.STUDENT, plan.student.model, plan.student.revision),
        ModelRef(Role.TEACHER, plan.teacher.model, plan.teacher.revision),
        plan.cluster.device,
        plan.data.train,
        plan.data.eval,
    )
    assert facts is not None, found
    compilation = compile_plan(plan, facts, "test")
    severe = [d for d in found + compilation.diagnostics if d.severity is not Severity.NOTE]
    assert not severe
    assert compilation.run_plan is not None
    return compilation.run_plan


@pytest.mark.parametrize("name", PLANS)
def test_a_shipped_plan_compiles_without_a_warning_and_fits(name):
    run_plan = compiled(name)
    assert run_plan.name == name.removesuffix(".toml")
    assert run_plan.ledger.verdict is Verdict.FITS
    assert run_plan.training.num_steps > 0


def test_the_plans_cover_the_common_families_and_the_quickstart():
    families = {compiled(name).models.teacher.family for name in PLANS}
    assert families == {"llama", "qwen2", "qwen3", "qwen3_moe"}
    assert "quickstart.toml" in PLANS


def test_the_quickstart_learns_from_all_three_sources():
    steps = compiled("quickstart.toml").steps
    sampled = {step.source for step in steps if hasattr(step, "source")}
    assert sampled == {Source.STUDENT, Source.TEACHER}
    draw = steps[0]
    assert draw.lmbda + (1 - draw.lmbda) * draw.seq_kd < 1


def test_qwen_7b_on_two_ranks_weighs_what_its_parameters_say():
    # 7,615,616,512 parameters in bf16 over two ranks, norms on both: 2 x 28 x 3,584 and the final
    # 3,584. Vocabulary 152,064 is padded to itself; head 76,032 x 3,584.
    rows = compiled("qwen2.5-7b-to-3b.toml").ledger.classes[0].phases[Phase.TEACHER].rows
    norms = (2 * 28 + 1) * 3584
    head = 76_032 * 3584
    assert rows["teacher head"] == 2 * head
    assert rows["teacher body"] == 2 * ((7_615_616_512 - norms) // 2 + norms - head)
