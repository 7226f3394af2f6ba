"""`gkdplan sample` as the command calls the runtime, on forks."""

from pathlib import Path

from tiny_plans import plan_text

from gkdplan.cli.compiling import compile_file
from gkdplan.cli.sample import decide
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.samples.launch import SamplesResult, sample
from gkdplan.samples import Manifest
from gkdplan.vocab import Role


def sampling_of(home: Path, role: Role, **changes: object) -> tuple[RunPlan, Manifest, Role]:
    """What `gkdplan sample` decides for a tiny plan, and whose place the model has in it."""
    file = home / "sampled.toml"
    file.write_text(plan_text(home, home / "run", **{"held_out": "[]", **changes}))
    decided = decide(str(file), role)
    return decided.run_plan, decided.manifest, decided.drawn_as


def sample_tiny(
    home: Path, file: Path, role: Role = Role.TEACHER, **changes: object
) -> SamplesResult:
    run_plan, manifest, drawn_as = sampling_of(home, role, **changes)
    return sample(run_plan, manifest, drawn_as, str(file))


def compile_taking(home: Path, file: Path, output: Path, **changes: object) -> RunPlan:
    """A tiny plan, without an engine, whose every step takes the teacher's samples of `file`."""
    plan = home / "taking.toml"
    taking = {"lmbda": 0.0, "seq_kd": 1.0, "teacher": f'samples = "{file}"'}
    completion = {"completion": '12\nengine = "none"'}
    plan.write_text(plan_text(home, output, **{**taking, **completion, **changes}))
    return compile_file(str(plan)).require()
