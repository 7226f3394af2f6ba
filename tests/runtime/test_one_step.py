"""The loss and every gradient of one step, against the textbook in float64 on one process."""

from itertools import product
from pathlib import Path

import pytest
from gloo_ranks import run_on_ranks
from one_step import Reference, learn_once
from silent_session import open_silently
from tiny_plans import compile_plan_text, compile_tiny, make_home, plan_text

from gkdplan.runplan.codec import encode
from gkdplan.vocab import Source

LAYOUTS = {
    "one process": {"devices": 1, "tensor": 1},
    "tensor 2 with sequence": {"devices": 2, "tensor": 2},
    "data 2": {"devices": 2, "tensor": 1},
}
PAYLOADS = {
    "hidden": {},
    "logits": {},
    "top_k": {"distill": "top_k = 8\nsft_alpha = 0.5"},
}
GRID = list(product((0.0, 0.1, 0.5, 1.0), (1.0, 2.0)))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_gradients_equal_float64_on_one_process(layout, payload, home, tmp_path):
    run_plan = compile_tiny(
        home,
        tmp_path / "run",
        distributed="false",
        payload=payload,
        **PAYLOADS[payload],
        **LAYOUTS[layout],
    )
    run_on_ranks(_check_grid, run_plan.layout.world_size, encode(run_plan))


def test_a_tied_student_learns_alike_from_an_untied_teacher_on_the_host(tmp_path):
    home = make_home(tmp_path / "tiny")
    for name, other in (
        ("student", "was student"),
        ("teacher", "student"),
        ("was student", "teacher"),
    ):
        (home / name).rename(home / other)
    run_plan = compile_tiny(
        home, tmp_path / "run", distributed="false", offload="cpu", devices=2, tensor=2
    )
    assert run_plan.models.student.shape.tied_embeddings
    assert not run_plan.models.teacher.shape.tied_embeddings
    run_on_ranks(_check_grid, 2, encode(run_plan))


def test_the_likeliest_ids_of_a_teacher_over_other_axes_travel(home, tmp_path):
    """From a tensor axis, on the host between steps, to two data ranks."""
    changes = {"devices": 2, "distributed": "false", "payload": "top_k", "offload": "cpu"}
    text = plan_text(home, tmp_path / "run", **changes, **PAYLOADS["top_k"])
    run_plan = compile_plan_text(f"{text}\n[teacher.parallel]\ntensor = 2\n")
    run_on_ranks(_check_grid, 2, encode(run_plan))


def test_a_teacher_that_is_the_student_gives_no_loss(tmp_path):
    home = make_home(tmp_path / "tiny")
    (home / "teacher").rename(home / "unused")
    (home / "teacher").symlink_to(home / "student")
    run_plan = compile_tiny(home, tmp_path / "run", devices=2, tensor=2)
    run_on_ranks(_check_zero, 2, encode(run_plan))


def test_only_dataset_steps_have_cross_entropy(tmp_path):
    """A teacher that is the student leaves nothing else of the loss."""
    home = make_home(tmp_path / "tiny")
    (home / "teacher").rename(home / "unused")
    (home / "teacher").symlink_to(home / "student")
    changes = {"lmbda": 0.4, "seq_kd": 0.5, "payload": "top_k"}
    changes["distill"] = "top_k = 8\nsft_alpha = 2.0"
    run_plan = compile_tiny(home, tmp_path / "run", **changes)
    run_on_ranks(_check_sources, 1, encode(run_plan))


def _check_sources(lock: str) -> None:
    session = open_silently(lock)
    seen = set()
    for step in range(1, 13):
        state = learn_once(session, 0.5, 1.0, step)
        seen.add(state.source)
        # twice the cross-entropy of an untrained model, at least of ten equally likely tokens
        assert (state.loss > 4.6) if state.source is Source.DATASET else abs(state.loss) < 1e-7
    assert seen == set(Source)


def _check_grid(lock: str) -> None:
    session = open_silently(lock)
    reference = Reference(session.plan)
    for beta, temperature in GRID:
        loss, gradients = reference.errors(session, beta, temperature)
        where = f"beta {beta}, temperature {temperature}"
        assert loss <= 1e-5, where
        for name, error in gradients.items():
            assert error <= 1e-5, f"{where}: {name} is off by {error:.2e}"


def _check_zero(lock: str) -> None:
    session = open_silently(lock)
    for beta, temperature in GRID:
        assert abs(learn_once(session, beta, temperature).loss) < 1e-7, (beta, temperature)
