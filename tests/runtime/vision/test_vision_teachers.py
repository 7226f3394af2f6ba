"""Teachers of a student that sees: itself, its average, and one that visits layer by layer."""

from collections.abc import Callable
from pathlib import Path

import pytest
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from test_self_distillation import DECAY, _average_beside_float64, _initial_stays
from test_vision_runs import LAYOUTS, PLAN, make_home
from test_vision_trace import make_home as make_wide_home
from tiny_plans import compile_tiny

from gkdplan.report.trace import compare
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.trace import trace
from gkdplan.vocab import Phase

GRID = pytest.mark.grid
STREAMED = {"offload": "cpu", "prefetch": "stream = true"}
FILLED = {"prompt": 72, "completion": 24, "steps": 2}
KINDS = ("llava", "qwen-vl", "internvl", "qwen3-vl")
LAYOUTS_STREAMED = ("one process", "tensor 2 with sequence", "pipeline 2")


def cases(*in_every_run: tuple[str, str]) -> list[object]:
    """The others are in the grid."""
    return [
        pytest.param(kind, layout, marks=() if (kind, layout) in in_every_run else GRID)
        for kind in KINDS
        for layout in LAYOUTS_STREAMED
    ]


LEARNING = "freeze_vision = false\nfreeze_projector = false"
ITSELF = {"distill": "sft_alpha = 1.0", "steps": 4, "held_out": "[]"}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def ran(tmp_path) -> Callable[..., tuple[RunPlan, list[dict], list[dict]]]:
    """The run plan of two steps, their metrics, and the evaluations."""

    def ran(home: Path, name: str, **changes: object) -> tuple[RunPlan, list[dict], list[dict]]:
        output = tmp_path / name
        run_plan = compile_tiny(home, output, **PLAN | FILLED | changes)
        run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan))
        lines = read_metrics(output / "metrics.jsonl")
        steps = [line for line in lines if "loss" in line]
        return run_plan, steps, [line["eval"] for line in lines if "eval" in line]

    return ran


def _run(lock: str) -> None:
    session = open_silently(lock)
    with settled():
        Executor(session).run(0)
    eyes = [p for c in session.teacher if hasattr(c, "vision") for p in c.vision.parameters()]
    is_away = session.plan.models.teacher.stream
    assert all((p.numel() == 0) is is_away for p in eyes)


@pytest.mark.parametrize(("kind", "layout"), cases(("qwen3-vl", "one process")))
def test_a_streamed_teacher_that_sees_changes_no_bit(kind, layout, ran, tmp_path):
    """Of rows with and without images, whose tower is passed over where there are none."""
    home = make_home(kind, tmp_path / "home")
    _, there, judged = ran(home, "whole", **LAYOUTS[layout], micro=1)
    plan, found, judged_too = ran(home, "streamed", **LAYOUTS[layout], micro=1, **STREAMED)
    assert [line["loss"] for line in found] == [line["loss"] for line in there]
    assert judged_too == judged
    assert plan.models.teacher.stream


@pytest.mark.parametrize(("kind", "layout"), cases(("llava", "one process")))
def test_the_trace_of_a_streamed_teacher_is_as_planned(kind, layout, tmp_path):
    home = make_wide_home(kind, tmp_path / "home", teacher_layers=6)
    changes = PLAN | FILLED | LAYOUTS[layout]
    peaks = []
    for output, teacher in (("whole", {"offload": "cpu"}), ("streamed", STREAMED)):
        run_plan = compile_tiny(home, tmp_path / output, **changes, **teacher)
        for of_class in compare(run_plan, trace(run_plan)):
            assert max(map(abs, of_class.errors)) <= 0.01
        peaks.append(run_plan.ledger.phase_peaks[Phase.TEACHER])
    assert peaks[1] < peaks[0]


@pytest.mark.parametrize("kind", ["llava", *(pytest.param(k, marks=GRID) for k in KINDS[1:])])
@pytest.mark.parametrize("layout", ["one process", pytest.param("tensor 2", marks=GRID)])
def test_the_first_teacher_has_the_weights_that_the_student_began_with(kind, layout, tmp_path):
    """Tower and projector too, which learn."""
    home = make_home(kind, tmp_path / "home")
    initial = ITSELF | {"teacher_model": 'self = "initial"', "student": LEARNING}
    run_plan = compile_tiny(home, tmp_path / "run", **PLAN | initial | _layout(layout))
    run_on_ranks(_initial_stays, run_plan.layout.world_size, encode(run_plan), "")


@pytest.mark.parametrize(
    ("kind", "student"),
    [
        ("qwen-vl", LEARNING),
        *(pytest.param(kind, LEARNING, marks=GRID) for kind in ("llava", "internvl", "qwen3-vl")),
        pytest.param("llava", "", marks=GRID),
    ],
)
@pytest.mark.parametrize("layout", ["one process", pytest.param("tensor 2", marks=GRID)])
def test_the_teacher_is_the_average_of_eyes_and_decoder(kind, student, layout, tmp_path):
    home = make_home(kind, tmp_path / "home")
    average = {"teacher_model": f'self = "ema"\ndecay = {DECAY}', "student": student}
    run_plan = compile_tiny(home, tmp_path / "run", **PLAN | ITSELF | average | _layout(layout))
    run_on_ranks(_average_beside_float64, run_plan.layout.world_size, encode(run_plan))


@pytest.mark.parametrize("kind", ["llava", pytest.param("qwen-vl", marks=GRID)])
def test_the_trace_of_an_average_is_as_planned(kind, tmp_path):
    home = make_wide_home(kind, tmp_path / "home")
    average = {"teacher_model": 'self = "ema"', "student": LEARNING, "dtype": "bf16"}
    run_plan = compile_tiny(home, tmp_path / "run", **PLAN | FILLED | ITSELF | average)
    assert run_plan.ledger.classes[0].phases[Phase.TEACHER].rows["teacher average"]
    for of_class in compare(run_plan, trace(run_plan)):
        assert max(map(abs, of_class.errors)) <= 0.01


def _layout(name: str) -> dict[str, object]:
    return LAYOUTS["tensor 2 with sequence"] if name == "tensor 2" else {}
