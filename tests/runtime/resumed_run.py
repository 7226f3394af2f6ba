"""A run of four steps beside one that goes on from its second."""

from pathlib import Path

import torch.distributed as dist
from gloo_ranks import run_on_ranks
from silent_session import open_silently

from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.executor import Executor


def ends_in_the_same_bytes(run_plan: RunPlan) -> Path:
    """Every file of the last checkpoint is the same in both; the checkpoint's directory."""
    run_on_ranks(_run_and_resume, run_plan.layout.world_size, encode(run_plan))
    checkpoints = Path(run_plan.training.output) / "checkpoints"
    first, again = (_files(checkpoints / name) for name in ("first", "step_4"))
    assert len(again) > 4
    assert again == first
    return checkpoints / "step_4"


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
