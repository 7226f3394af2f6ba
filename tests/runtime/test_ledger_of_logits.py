"""The ledger of stored logits and of a checkpoint, against the live bytes of a run."""

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor

LONG = "the quick brown fox jumps over the lazy dog " * 12
LAYOUTS = {"one": {"devices": 1}, "tensor": {"devices": 2, "tensor": 2, "offload": "cpu"}}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_phase_is_within_a_tenth_where_logits_travel(layout, tmp_path):
    home = make_home(tmp_path / "tiny")
    tiny.save_rows(home / "rows.jsonl", [(LONG, LONG)] * 8)
    run_plan = compile_tiny(
        home,
        tmp_path / "run",
        payload="logits",
        truncation="left",
        held_out="[]",
        steps=2,
        save_interval=10,
        **LAYOUTS[layout],
    )
    run_on_ranks(_check_two_steps, run_plan.layout.world_size, encode(run_plan))


def _check_two_steps(lock: str) -> None:
    session = open_silently(lock)
    for step in (1, 2):
        Executor(session)._run_step(step)
    planned, measured = session.plan.ledger.classes[0].phases, session.phases.peak_bytes
    assert measured.keys() == planned.keys()
    peaks = torch.tensor([measured[phase] for phase in planned])
    torch.distributed.all_reduce(peaks, torch.distributed.ReduceOp.MAX)
    for phase, peak_bytes in zip(planned, peaks.tolist(), strict=True):
        ratio = peak_bytes / planned[phase].peak_bytes
        assert 0.9 <= ratio <= 1.1, f"{phase}: measured is {ratio:.3f} of planned"
