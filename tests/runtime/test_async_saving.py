"""Checkpoints that are written beside later steps are those that are waited for."""

import errno
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import tiny
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_tiny
from torch import Tensor

from gkdplan.runplan.codec import decode, encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.saved import saving
from gkdplan.runtime.saved.claim import open_run_directory
from gkdplan.runtime.saved.manifest import flaw
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.vocab import Phase

BESIDE = {"save_interval": "2\nasync_save = true"}
PLAN = {"devices": 2, "steps": 6, "held_out": "[]", "rows": 4, "lmbda": 0.5}
LATE_S = 0.3
LAYOUTS = {
    "tied stages": {"parallel": "pipeline = 2"},
    "data, bf16": {"dtype": "bf16"},
    "adapters, state on the host": {
        "tensor": 2,
        "student": 'tuning = "lora"\n[student.lora]\nrank = 4',
        "optimizer": 'offload = "cpu"',
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for role, seed in (("teacher", 1), ("student", 2)):
        tiny.save_qwen2(home / role, num_layers=2, seed=seed)
    tiny.save_rows(home / "rows.jsonl")
    return home


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_has_the_bytes_of_one_that_was_waited_for(layout, home, tmp_path):
    places = tmp_path / "waited", tmp_path / "beside"
    ways = ({}, _run), (BESIDE, _run_while_nothing_is_written)
    for place, (changes, run) in zip(places, ways, strict=True):
        run_plan = compile_tiny(home, place, **PLAN | LAYOUTS[layout] | changes)
        run_on_ranks(run, 2, encode(run_plan))
    waited, beside = (_files(place / "checkpoints") for place in places)
    assert {name.split("/")[0] for name in waited} == {"step_2", "step_4", "step_6"}
    assert waited == beside


def test_a_checkpoint_that_is_not_written_to_its_end_leaves_the_one_before(home, tmp_path):
    run_plan = compile_tiny(home, tmp_path / "run", **PLAN | BESIDE)
    run_on_ranks(_fail_in_the_second, 2, encode(run_plan), only_once=True)
    directory = RunDirectory(tmp_path / "run")
    assert directory.saved_steps() == [2]
    assert (directory.checkpoints / ".step_4.partial").is_dir()
    directory.lock.write_text(encode(run_plan))
    with open_run_directory(run_plan, "auto") as (_, start_step, found):
        assert (start_step, found) == (2, ())
    assert [path.name for path in directory.checkpoints.iterdir()] == ["step_2"]
    run_on_ranks(_run, 2, encode(run_plan), 2)
    assert directory.saved_steps() == [2, 4, 6]
    assert flaw(directory.checkpoint(6)) is None


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_copies_have_the_planned_bytes_on_the_host_and_hold_none_of_the_device(
    dtype, home, tmp_path
):
    changes = PLAN | {"tensor": 2, "dtype": dtype}
    run_plan = compile_tiny(home, tmp_path / "run", **changes | BESIDE)
    run_on_ranks(_count_what_waits, 2, encode(run_plan))
    waited_for = compile_tiny(home, tmp_path / "waited", **changes)
    assert waited_for.ledger.host_bytes_per_node == 0
    run_on_ranks(_checkpoint_beside_its_plan, 2, encode(waited_for))
    beside = compile_tiny(home, tmp_path / "beside", **changes | BESIDE)
    run_on_ranks(_checkpoint_beside_its_plan, 2, encode(beside))


def _run(lock: str, start_step: int = 0) -> None:
    Executor(open_silently(lock, start_step)).run(start_step)


def _run_while_nothing_is_written(lock: str) -> None:
    """Steps are done before the writing of an earlier one begins."""
    write = saving._Files.write

    def write_late(*arguments: object) -> None:
        time.sleep(LATE_S)
        write(*arguments)

    with patch.object(saving._Files, "write", write_late):
        _run(lock)


def _fail_in_the_second(lock: str) -> None:
    """The disk of one rank fills up while it writes step 4; step 6 never begins to be written."""
    executor = Executor(open_silently(lock))
    write = saving.write_state

    def write_or_fail(path: Path, *contents: object) -> None:
        if dist.get_rank() == 1 and "step_4" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *contents)

    with patch.object(saving, "write_state", write_or_fail):
        for step in range(1, 5):
            executor._run_step(step)
        if dist.get_rank() == 1:
            with pytest.raises(OSError, match="No space left"):
                executor.saver._background.finish()
            with pytest.raises(OSError, match="No space left"):
                executor.saver.check()
        else:
            executor.saver.check()
    executor.session.metrics.close()


def _count_what_waits(lock: str) -> None:
    num_bytes = 0

    def count(meter: LiveBytes, tensor: Tensor) -> None:
        nonlocal num_bytes
        num_bytes += tensor.nbytes if tensor.dim() else 0

    executor = Executor(open_silently(lock))
    for step in (1, 2):
        with patch.object(LiveBytes, "exclude", count):
            executor._run_step(step)
    executor.saver.finish()
    executor.session.metrics.close()
    of_ranks = [0] * dist.get_world_size()
    dist.all_gather_object(of_ranks, num_bytes)
    assert of_ranks[0] > of_ranks[1] > 0
    assert sum(of_ranks) == decode(lock).ledger.host_bytes_per_node


def _checkpoint_beside_its_plan(lock: str) -> None:
    """With tensors so small the plan is above what they hold; random states are in no plan."""
    executor = Executor(open_silently(lock))
    with settled():
        for step in (1, 2):
            executor._run_step(step)
    executor.saver.finish()
    session = executor.session
    session.metrics.close()
    found = session.phases.peak_bytes[Phase.CHECKPOINT]
    planned = session.plan.ledger.phase_peaks[Phase.CHECKPOINT]
    assert 0.75 * planned < found < 1.02 * planned, (session.mesh.rank, found, planned)


def _files(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
