"""The ledger against a run's live bytes, where every row is as long as the plan allows."""

from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from tiny_plans import compile_tiny, make_home

from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.mesh import close_mesh
from gkdplan.runtime.phases import Position
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.session import Session, open_session
from gkdplan.vocab import Phase

LONG = "the quick brown fox jumps over the lazy dog " * 12
LAYOUTS = {
    "one process": {"devices": 1, "tensor": 1},
    "tensor 2 with sequence": {"devices": 2, "tensor": 2, "offload": "cpu"},
    "data 2": {"devices": 2, "tensor": 1},
    "data 2 undivided": {"devices": 2, "tensor": 1, "distributed": "false"},
}
SOURCES = {
    "dataset": {"lmbda": 0.0, "seq_kd": 0.0},
    "student": {"lmbda": 1.0, "seq_kd": 0.0},
    "teacher": {"lmbda": 0.0, "seq_kd": 1.0},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Rows whose prompts and responses are longer than any limit."""
    home = make_home(tmp_path_factory.mktemp("tiny"))
    tiny.save_rows(home / "rows.jsonl", [(LONG, LONG)] * 8)
    return home


@pytest.mark.parametrize("payload", ["hidden", "logits"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_state_is_exact_and_every_phase_is_within_a_tenth(layout, payload, home, tmp_path):
    for source, mix in SOURCES.items():
        run_plan = compile_tiny(
            home,
            tmp_path / source,
            truncation="left",
            payload=payload,
            steps=2,
            save_interval=10,
            **mix,
            **LAYOUTS[layout],
        )
        run_on_ranks(_check_two_steps, run_plan.layout.world_size, encode(run_plan))


def _check_two_steps(lock: str) -> None:
    session = _open(decode(lock))
    executor = Executor(session)
    for step in (1, 2):
        executor._run_step(step)
    ledger = session.plan.ledger.classes[0].phases
    planned = ledger[Phase.OPTIMIZER].rows
    state = ("student params", "student grads", "student main + Adam")
    assert _largest(_training_state(session)) == [planned[name] for name in state]
    phases = [phase for phase in ledger if phase is not Phase.CHECKPOINT]
    assert set(session.phases.peak_bytes) == {*phases, Phase.CHECKPOINT}
    measured = _largest([session.phases.peak_bytes[phase] for phase in phases])
    for phase, peak_bytes in zip(phases, measured, strict=True):
        assert abs(ledger[phase].peak_bytes / peak_bytes - 1) <= 0.1, (phase, peak_bytes)


def _open(run_plan: RunPlan) -> Session:
    close_mesh()
    platform.prepare("gloo")
    Path(run_plan.training.output).mkdir(parents=True, exist_ok=True)
    progress = Progress(run_plan, 0, shown=False, terminal=False)
    return open_session(run_plan, 0, Position(0, "start"), progress)


def _training_state(session: Session) -> list[int]:
    """Bytes of parameters, gradients, and what else the optimizer keeps for each element."""
    parameters = _storages(session.student.parameters())
    gradients = _storages(p.main_grad for p in session.student.parameters())
    everything = _storages(session.trainer.resident_tensors())
    counters = 4 * len(session.trainer._adam.state)
    rest = sum((everything | parameters | gradients).values())
    rest -= sum((parameters | gradients).values()) + counters
    return [sum(parameters.values()), sum(gradients.values()), rest]


def _storages(tensors) -> dict[int, int]:
    return {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}


def _largest(numbers: list[int]) -> list[int]:
    """Elementwise, over all ranks: the ledger gives a class's largest rank."""
    found = torch.tensor(numbers)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return found.tolist()
