"""The ledger of stored logits and of a checkpoint, against the live bytes of a run."""

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor

LONG = "the quick brown fox jumps over the lazy dog " * 12
LAYOUTS = {
    "one": {"devices": 1},
    "tensor": {"devices": 2, "tensor": 2, "offload": "cpu"},
    "pipeline": {"devices": 2, "parallel": "pipeline = 2"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_phase_is_within_a_tenth_where_logits_travel(layout, tmp_path):
    home = make_home(tmp_path / "tiny")
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=48, seed=1)
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
    with settled():
        for step in (1, 2):
            Executor(session)._run_step(step)
    of_ranks = [{}] * session.mesh.world_size
    torch.distributed.all_gather_object(of_ranks, session.phases.peak_bytes)
    for rank_class, costs in zip(
        session.plan.layout.classes, session.plan.ledger.classes, strict=True
    ):
        ranks = [rank for start, stop in rank_class.ranks for rank in range(start, stop)]
        for phase, planned in costs.phases.items():
            measured = max(of_ranks[rank][phase] for rank in ranks)
            ratio = measured / planned.peak_bytes
            assert 0.9 <= ratio <= 1.1, f"{ranks} {phase}: measured is {ratio:.3f} of planned"
