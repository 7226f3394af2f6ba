"""A whole run whose loss is compiled learns what one by eager learns."""

from pathlib import Path

import pytest
from tiny_plans import compile_plan_text, make_home, plan_text

from gkdplan.runtime.launch import run
from gkdplan.runtime.saved.run_directory import read_metrics


def losses_by(backend: str, home: Path, output: Path) -> list[float]:
    """Of six steps on two ranks of a tensor axis, of which two are metered."""
    text = plan_text(home, output, lmbda=0.0, seq_kd=0.0, devices=2, tensor=2)
    text = text.replace("[distill]\n", f'[distill]\nloss_backend = "{backend}"\n')
    run_plan = compile_plan_text(text)
    assert run_plan.objective.loss_backend == backend
    result = run(run_plan)
    assert result.exit_code == 0, result.diagnostics
    lines = read_metrics(result.run_dir / "metrics.jsonl")
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.grid
@pytest.mark.timeout(900)
def test_a_compiled_loss_learns_what_eager_learns(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    eager, compiled = (losses_by(name, home, tmp_path / name) for name in ("eager", "compiled"))
    assert len(eager) == 6
    assert compiled == pytest.approx(eager, rel=1e-5)
