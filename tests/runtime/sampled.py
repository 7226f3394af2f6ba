"""`gkdplan sample` as the command calls the runtime, on forks."""

from pathlib import Path

from tiny_plans import plan_text

from gkdplan.cli.compiling import compile_file
from gkdplan.cli.sample import Decided, decide
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.samples.launch import SamplesResult, sample
from gkdplan.vocab import Role


def sampling_of(home: Path, role: Role, **changes: object) -> Decided:
    """What `gkdplan sample` decides for a tiny plan."""
    file = home / "sampled.toml"
    file.write_text(plan_text(home, home / "run", **{"held_out": "[]", **changes}))
    return decide(str(file), role)


def sample_tiny(
    home: Path, file: Path, role: Role = Role.TEACHER, **changes: object
) -> SamplesResult:
    return sample_decided(sampling_of(home, role, **changes), file)


def sample_decided(decided: Decided, file: Path) -> SamplesResult:
    return sample(decided.run_plan, decided.manifest, decided.drawn_as, decided.renderer, str(file))


def compile_taking(home: Path, file: Path, output: Path, **changes: object) -> RunPlan:
    """A tiny plan, without an engine, whose every step takes the teacher's samples of `file`."""
    plan = home / "taking.toml"
    taking = {"lmbda": 0.0, "seq_kd": 1.0, "teacher": f'samples = "{file}"'}
    completion = {"completion": '12\nengine = "none"'}
    plan.write_text(plan_text(home, output, **{**taking, **completion, **changes}))
    return compile_file(str(plan)).require()
