"""A session that goes on from a checkpoint of stages or of experts ends in the same bytes."""

from pathlib import Path

import pytest
import tiny
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor

LAYOUTS = {
    "interleaved stages of a tied student": "pipeline = 2\nvirtual_pipeline = 2",
    "experts": "expert = 2",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resumed_session_ends_in_the_same_bytes(layout: str, tmp_path: Path) -> None:
    home = tmp_path
    if layout == "experts":
        tiny.save_qwen3_moe(home / "teacher", seed=1)
        tiny.save_qwen3_moe(home / "student", seed=2)
    else:
        tiny.save_llama(home / "teacher", num_layers=4, seed=1)
        tiny.save_qwen2(home / "student", num_layers=4, seed=2)
    tiny.save_rows(home / "rows.jsonl")
    run_plan = compile_tiny(
        home,
        home / "run",
        devices=2,
        parallel=LAYOUTS[layout],
        held_out="[]",
        steps=4,
        save_interval=2,
    )
    run_on_ranks(_run_and_resume, 2, encode(run_plan))
    first, again = (_files(home / "run/checkpoints" / name) for name in ("first", "step_4"))
    assert len(again) > 4
    assert again == first


def _run_and_resume(lock: str) -> None:
    session = open_silently(lock)
    _run(session, (1, 2, 3, 4))
    if session.is_main:
        finished = session.directory.checkpoint(4)
        finished.rename(finished.with_name("first"))
    dist.barrier()
    _run(open_silently(lock, start_step=2), (3, 4))


def _run(session, steps: tuple[int, ...]) -> None:
    for step in steps:
        Executor(session)._run_step(step)
    session.metrics.close()


def _files(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
