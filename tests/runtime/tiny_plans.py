"""Plans over tiny models, compiled the way the command line compiles them."""

from pathlib import Path

import tiny

from gkdplan.facts.lookup import look_up
from gkdplan.facts.model import ModelRef
from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.models import named_teacher
from gkdplan.planner.pictures import picture_limits
from gkdplan.runplan.model import RunPlan
from gkdplan.spec.load import load_plan
from gkdplan.vocab import Role

PLAN = """
name = "tiny"
[cluster]
devices_per_node = {devices}
{cluster}
[student]
model = "{home}/student"
dtype = "{dtype}"
{student}
[student.parallel]
tensor = {tensor}
{parallel}
[student.recompute]
{recompute}
[teacher]
{teacher_model}
offload = "{offload}"
{teacher}
{prefetch}
[distill]
beta = {beta}
lmbda = {lmbda}
seq_kd = {seq_kd}
temperature = {temperature}
payload = "{payload}"
{distill}
[generation]
max_completion_length = {completion}
{generation}
[data]
train = ["{home}/rows.jsonl"]
eval = {held_out}
max_length = {prompt}
truncation = "{truncation}"
[batch]
micro = {micro}
global = {rows}
[optimizer]
lr = 1e-2
weight_decay = 0.1
distributed = {distributed}
{optimizer}
[run]
output = "{output}"
steps = {steps}
save_interval = {save_interval}
keep = 4
{run}
"""
DEFAULTS = {
    "devices": 1,
    "cluster": "",
    "tensor": 1,
    "dtype": "fp32",
    "student": "",
    "parallel": "",
    "recompute": "",
    "offload": "none",
    "teacher": "",
    "prefetch": "",
    "beta": 0.5,
    "lmbda": 0.0,
    "seq_kd": 0.0,
    "temperature": 1.0,
    "payload": "hidden",
    "distill": "",
    "completion": 12,
    "generation": "",
    "prompt": 64,
    "truncation": "error",
    "micro": 2,
    "rows": 8,
    "distributed": "true",
    "optimizer": "",
    "steps": 6,
    "save_interval": 2,
    "run": "",
}


def make_home(home: Path) -> Path:
    """A Qwen3 teacher, a Llama student of other sizes with the same tokenizer, and rows."""
    home.mkdir(exist_ok=True)
    tiny.save_qwen3(home / "teacher", num_layers=3, hidden=48, seed=1)
    tiny.save_llama(home / "student", num_layers=2, hidden=32, seed=2)
    tiny.save_rows(home / "rows.jsonl")
    return home


def make_home_for_vllm(home: Path) -> Path:
    """A student and a teacher whose heads have 32 columns, the fewest that vLLM knows on a CPU."""
    home.mkdir(exist_ok=True)
    tiny.save_llama(home / "student", num_layers=2, hidden=128, max_positions=256, seed=2)
    tiny.save_llama(home / "teacher", num_layers=4, hidden=128, max_positions=256, seed=1)
    tiny.save_rows(home / "rows.jsonl")
    return home


def plan_text(home: Path, output: Path | str, **changes: object) -> str:
    """PLAN with `changes` to its defaults."""
    defaults = {
        **DEFAULTS,
        "held_out": f'["{home}/rows.jsonl"]',
        "teacher_model": f'model = "{home}/teacher"',
    }
    return PLAN.format(home=home, output=output, **{**defaults, **changes})


def compile_tiny(home: Path, output: Path, **changes: object) -> RunPlan:
    """The run plan of such a plan; it must compile without an error."""
    return compile_plan_text(plan_text(home, output, **changes))


def compile_plan_text(text: str) -> RunPlan:
    """The run plan of a plan's text; it must compile without an error."""
    loaded = load_plan("tiny.toml", text)
    assert loaded.plan is not None, loaded.diagnostics
    plan = loaded.plan
    facts, found = look_up(
        ModelRef(Role.STUDENT, plan.student.model, None),
        ModelRef(Role.TEACHER, *named_teacher(plan)),
        plan.cluster.device,
        plan.data.train,
        plan.data.eval,
        limits=picture_limits(plan),
    )
    assert facts is not None, found
    compilation = compile_plan(plan, facts, tool="gkdplan test")
    errors = [d for d in compilation.diagnostics if d.severity == "error"]
    assert not errors, errors
    assert compilation.run_plan is not None
    return compilation.run_plan
