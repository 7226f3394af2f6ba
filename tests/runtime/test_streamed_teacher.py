"""A teacher that visits the device layer by layer: the same numbers, and the ledger's bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_plan_text, compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Move, TeacherForward
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.trace import trace
from gkdplan.vocab import Phase

FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": 2, "rows": 8}
STREAMED = {"offload": "cpu", "prefetch": "stream = true"}
CONFIGURATIONS = {
    "one process": {},
    "logits": {"payload": "logits"},
    "bf16": {"dtype": "bf16"},
    "tensor": {"devices": 2, "tensor": 2},
    "pipeline": {"devices": 2, "parallel": "pipeline = 2"},
    "virtual pipeline": {"devices": 2, "parallel": "pipeline = 2\nvirtual_pipeline = 2"},
    "a layout of its own": {"devices": 2, "teacher": "parallel = { tensor = 2 }"},
}
IN_EVERY_RUN = {"one process", "virtual pipeline"}
TEACHERS = ("tied", "untied")


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> dict[str, Path]:
    """Models large enough that their tensors, not Python's odds and ends, are what is counted."""
    homes = {teacher: tmp_path_factory.mktemp(teacher) for teacher in TEACHERS}
    tiny.save_qwen3(homes["tied"] / "teacher", num_layers=8, hidden=128, ffn=512, seed=1)
    tiny.save_llama(homes["untied"] / "teacher", num_layers=8, hidden=128, ffn=512, seed=1)
    for home in homes.values():
        tiny.save_llama(home / "student", num_layers=4, hidden=96, seed=2)
        tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    return homes


@pytest.fixture(scope="module")
def ran(homes, tmp_path_factory) -> Callable[..., tuple[RunPlan, list[dict], list[dict]]]:
    """The run plan of two steps on the dataset, their metrics, and the evaluations."""

    def ran(models: str, **changes: object) -> tuple[RunPlan, list[dict], list[dict]]:
        output = tmp_path_factory.mktemp("runs") / "run"
        run_plan = compile_tiny(homes[models], output, **FILLED | changes)
        run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan))
        lines = read_metrics(output / "metrics.jsonl")
        steps = [line for line in lines if "loss" in line]
        return run_plan, steps, [line["eval"] for line in lines if "eval" in line]

    return ran


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in IN_EVERY_RUN else pytest.mark.grid) for n in CONFIGURATIONS],
)
def test_a_streamed_teacher_changes_no_bit_and_the_bytes_that_the_plan_says(name, teacher, ran):
    changes = CONFIGURATIONS[name]
    whole, there, judged = ran(teacher, **changes)
    streamed, found, judged_too = ran(teacher, **STREAMED | changes)
    assert [line["loss"] for line in found] == [line["loss"] for line in there]
    assert judged_too == judged
    assert not [step for step in streamed.steps if isinstance(step, Move)]
    (forward,) = (step for step in streamed.steps if isinstance(step, TeacherForward))
    body = whole.ledger.classes[0].phases[Phase.TEACHER].rows["teacher body"]
    assert forward.streamed_bytes >= forward.num_micro_batches * body
    for run_plan, lines in ((whole, there), (streamed, found)):
        measured, planned = lines[1]["peak_bytes"], run_plan.ledger.phase_peaks
        for phase in (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER):
            assert measured[phase] == pytest.approx(planned[phase], rel=0.02), phase
    saved = there[1]["peak_bytes"][Phase.TEACHER] - found[1]["peak_bytes"][Phase.TEACHER]
    peaks = (plan.ledger.phase_peaks[Phase.TEACHER] for plan in (whole, streamed))
    planned_saved = next(peaks) - next(peaks)
    assert saved == pytest.approx(planned_saved, rel=0.05)
    assert planned_saved > body / 3


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_trace_finds_the_bytes_of_the_ledger(teacher, homes, tmp_path):
    run_plan = compile_tiny(homes[teacher], tmp_path / "run", **FILLED | STREAMED)
    (traced,) = trace(run_plan).values()
    planned = run_plan.ledger.classes[0].phases
    for phase, num_bytes in traced.items():
        assert num_bytes == pytest.approx(planned[phase].peak_bytes, rel=0.01), phase


def _run(lock: str) -> None:
    session = open_silently(lock)
    with settled():
        Executor(session).run(0)
    empty = [p for chunk in session.teacher for p in chunk.parameters() if not p.numel()]
    is_streamed = session.plan.models.teacher.stream
    assert bool(empty) is is_streamed


SMOLLM2 = Path(__file__).parents[2] / ".cache" / "SmolLM2-135M-Instruct"
OF_SMOLLM2 = """
name = "streamed"
[cluster]
{limit}
[student]
model = "{model}"
dtype = "fp32"
tuning = "lora"
init = "layers"
keep.layers = [29]
[teacher]
model = "{model}"
{teacher}
[distill]
lmbda = 0.0
[generation]
engine = "none"
max_completion_length = 32
[data]
train = ["{rows}"]
max_length = 64
truncation = "left"
[batch]
micro = 1
global = 4
[run]
output = "{output}"
steps = 2
"""


@pytest.mark.grid
def test_smollm2_teaches_within_less_memory_than_it_takes(homes, tmp_path):
    losses = []
    for name, limit, teacher in (
        ("whole", "", ""),
        ("streamed", 'memory_limit = "512 MiB"', 'offload = "cpu"\nstream = true'),
    ):
        text = OF_SMOLLM2.format(
            model=SMOLLM2,
            limit=limit,
            teacher=teacher,
            rows=homes["tied"] / "rows.jsonl",
            output=tmp_path / name,
        )
        run_plan = compile_plan_text(text)
        run_on_ranks(_run, 1, encode(run_plan))
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        losses.append([line["loss"] for line in lines if "loss" in line])
    weights = run_plan.models.teacher.num_parameters * 4
    assert weights > 512 * 2**20 == run_plan.ledger.limit_bytes
    assert losses[0] == losses[1]
