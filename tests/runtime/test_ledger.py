"""What the plan says of memory, against the live bytes of a real run whose rows fill the plan."""

from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.vocab import Phase

LAYOUTS = {
    "one": {"devices": 1, "tensor": 1},
    "tensor, teacher on the host": {"devices": 2, "tensor": 2, "offload": "cpu"},
    "data": {"devices": 2, "tensor": 1, "distributed": "true"},
    "data, optimizer replicated": {"devices": 2, "tensor": 1, "distributed": "false"},
}
FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": 2, "rows": 8, "micro": 2}
SOURCES = {"dataset": {"lmbda": 0.0}, "student": {"lmbda": 1.0}, "teacher": {"seq_kd": 1.0}}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Models large enough that their tensors, not Python's odds and ends, are what is counted."""
    home = tmp_path_factory.mktemp("ledger")
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=128, seed=1)
    tiny.save_llama(home / "student", num_layers=3, hidden=96, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    return home


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_measured_peaks_are_within_a_tenth_of_the_planned(layout, source, home, tmp_path):
    run_plan = compile_tiny(home, tmp_path / "run", **FILLED, **SOURCES[source], **LAYOUTS[layout])
    run_on_ranks(_run_two_steps, run_plan.layout.world_size, encode(run_plan))
    lines = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in line]
    planned = run_plan.ledger.classes[0].phases
    expected = {Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER}
    if source != "dataset":
        expected |= {Phase.GENERATE}
    measured = {Phase(phase): num_bytes for phase, num_bytes in lines[1]["peak_bytes"].items()}
    assert expected <= measured.keys()
    for phase in expected:
        ratio = measured[phase] / planned[phase].peak_bytes
        assert 0.9 <= ratio <= 1.1, f"{phase}: measured is {ratio:.3f} of planned"


def _run_two_steps(lock: str) -> None:
    session = open_silently(lock)
    with settled():
        for step in (1, 2):
            Executor(session)._run_step(step)
    session.metrics.close()
    planned = session.plan.ledger.classes[0].phases[Phase.CHECKPOINT].rows
    gradients, adam = _training_bytes(session)
    assert _storage_bytes(session.student[0].parameters()) == planned["student params"]
    assert gradients == planned["student grads"]
    # The row is the largest rank's; padding of the buffer makes others smaller.
    largest = torch.tensor(adam)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    assert int(largest) == planned["student main + Adam"]


def _training_bytes(session) -> tuple[int, int]:
    """Gradients, and Adam's moments (float32 main weights are the parameters themselves)."""
    trainer = session.trainer
    gradients = _storage_bytes(buffer.grad_data for buffer in trainer._buffers)
    moments = [
        value
        for adam in trainer._adams
        for state in adam.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    return gradients, _storage_bytes(moments)


def _storage_bytes(tensors) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
