"""A disk without room for a run's checkpoints, and one that fills up while a run writes to it."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Checkpoint, saving_of
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.units import format_bytes

CODE, TOO_SMALL = "GK536", "GK538"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_room(run_plan: RunPlan, directory: RunDirectory, start_step: int) -> None:
    """Raises UserError (GK538) where the disk has not the planned bytes free for the checkpoints
    that a run which goes on after `start_step` will have beside those that lie there."""
    saving, num_steps = saving_of(run_plan.steps), run_plan.training.num_steps
    due = {*range(0, num_steps, saving.interval or num_steps), num_steps}
    num_there = len(directory.saved_steps())
    num_to_come = sum(step > start_step for step in due)
    num_more = min(num_there + num_to_come, saving.keep + 1) - num_there
    free = free_bytes(directory.path)
    if num_more * saving.num_bytes > free:
        keep = num_there + free // saving.num_bytes - 1
        raise UserError(_too_small(directory.path, saving, num_more, free, keep))


def free_bytes(path: Path) -> int:
    """Of the disk that has the directory, for this user."""
    return shutil.disk_usage(path).free


def _too_small(output: Path, saving: Checkpoint, num_more: int, free: int, keep: int) -> Diagnostic:
    """`keep` checkpoints, and one that is being written, would fit."""
    wanted = num_more * saving.num_bytes
    help = [f"free {format_bytes(wanted - free)}, or set `run.output` to another disk"]
    if keep > 0:
        help.append(f"or lower `run.keep` to {keep}: one more is there while it is written")
    return error(
        TOO_SMALL,
        f"the disk of `{output}` has {format_bytes(free)} free, and the checkpoints to come need "
        f"{format_bytes(wanted)}",
        "run.output",
        notes=(f"{num_more} more at once, of {saving.num_bytes:,} bytes each",),
        help=tuple(help),
    )


@contextmanager
def disk_errors(directory: Path, key: str) -> Iterator[None]:
    """Raises UserError (GK536) where a write inside fails because the disk of `directory`, which
    the plan's `key` names, is full."""
    try:
        yield
    except (OSError, SafetensorError) as failure:
        if not _is_full(failure):
            raise
        raise UserError(
            error(
                CODE,
                f"the disk of `{directory}` is full",
                key,
                notes=(f"{free_bytes(directory):,} bytes are free", str(failure)),
                help=("free space and run the same command again: checkpoints are whole",),
            )
        ) from failure


def _is_full(failure: OSError | SafetensorError) -> bool:
    """safetensors has the system's number in its words only."""
    if isinstance(failure, OSError):
        return failure.errno in _FULL
    return any(f"os error {number}" in str(failure) for number in _FULL)
