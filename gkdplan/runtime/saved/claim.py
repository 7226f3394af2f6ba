"""Who owns a run directory, and where its run goes on; nothing is overwritten."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from gkdplan.diagnostics import Diagnostic, UserError
from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.diff import Label, compare, is_result, obstacles
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.saved.manifest import flaw
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.runtime.saved.run_refusals import (
    already_begun,
    finished,
    foreign,
    in_use,
    not_a_checkpoint,
    not_whole,
    of_another_plan,
    resharded,
    skipped,
    unusable,
)


@contextmanager
def open_run_directory(
    run_plan: RunPlan, resume: str
) -> Iterator[tuple[RunDirectory, int, tuple[Diagnostic, ...]]]:
    """Hold the plan's run directory as its only run, and say after which step the run goes on, and
    which newer checkpoints are not whole (GK535): these are renamed.

    `resume` is "auto" (from the newest whole checkpoint, if any), "never" (only into an empty
    directory), or the path of one of the run's checkpoints: later ones are then renamed. The
    directory's lock is also its file lock, which the operating system takes back when this process
    ends, however it ends.

    Raises UserError where the directory holds anything else than a run of this plan, which may have
    been laid out in another way (`runplan.diff` says what may change), where that run is going on
    already (GK518), where it cannot be written (GK505), and where the checkpoint to go on from is
    not whole (GK517), or with "auto" none is.
    """
    directory = RunDirectory(Path(run_plan.training.output))
    try:
        file = _open_lock(directory, resume)
    except (OSError, ValueError) as failure:
        raise unusable(directory, failure) from failure
    with file:
        try:
            start_step, skipped = _claim(directory, file, run_plan, resume)
        except (OSError, ValueError) as failure:
            raise unusable(directory, failure) from failure
        yield directory, start_step, skipped


def _open_lock(directory: RunDirectory, resume: str) -> TextIO:
    """The lock of a run that is there, or of a new one, empty still."""
    if _is_empty(directory.path):
        if resume not in ("auto", "never"):
            raise not_a_checkpoint(directory, resume)
        directory.path.mkdir(parents=True, exist_ok=True)
    elif not directory.lock.is_file():
        raise foreign(directory)
    return directory.lock.open("a+", encoding="utf-8")


def _claim(
    directory: RunDirectory, file: TextIO, run_plan: RunPlan, resume: str
) -> tuple[int, tuple[Diagnostic, ...]]:
    """Lock the run and return the step after which it goes on, with the checkpoints that were
    skipped; its directory gets the plan, whose prices may be newer than the run."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise in_use(directory) from None
    file.seek(0)
    text = file.read()
    owner = decode(text, str(directory.lock)) if text else run_plan
    if directory.has_begun():
        if in_the_way := obstacles(owner, run_plan):
            raise of_another_plan(directory, owner, in_the_way)
        if resume == "never":
            raise already_begun(directory)
    for partial in directory.checkpoints.glob(".step_*.partial"):
        shutil.rmtree(partial)
    if text != encode(run_plan):
        file.truncate(0)
        file.write(encode(run_plan))
        file.flush()
    start_step, found = _resume_step(directory, run_plan, resume)
    changes = compare(owner, run_plan)
    moved = [c for c in changes if c.label is Label.RESHARD and not is_result(c.path)]
    if start_step and moved:
        found = (*found, resharded(start_step, moved))
    return start_step, found


def _resume_step(
    directory: RunDirectory, run_plan: RunPlan, resume: str
) -> tuple[int, tuple[Diagnostic, ...]]:
    steps = directory.saved_steps()
    if resume not in ("auto", "never"):
        paths = {os.path.realpath(directory.checkpoint(step)): step for step in steps}
        asked = paths.get(os.path.realpath(resume))
        if asked is None:
            raise not_a_checkpoint(directory, resume)
        if reason := flaw(directory.checkpoint(asked)):
            raise UserError(not_whole(directory, asked, reason))
        _set_aside(directory, [step for step in steps if step > asked], "superseded")
        return asked, ()
    newest, broken = _newest_whole(directory, steps)
    if newest >= run_plan.training.num_steps:
        raise finished(directory, newest)
    _set_aside(directory, list(broken), "broken")
    return newest, tuple(skipped(directory, step, broken[step], newest) for step in broken)


def _newest_whole(directory: RunDirectory, steps: list[int]) -> tuple[int, dict[int, str]]:
    """The step of the newest checkpoint that is whole, 0 where there is none, and what is wrong
    with the newer ones."""
    broken: dict[int, str] = {}
    for step in reversed(steps):
        reason = flaw(directory.checkpoint(step))
        if reason is None:
            return step, broken
        broken[step] = reason
    if broken:
        raise UserError(*(not_whole(directory, step, reason) for step, reason in broken.items()))
    return 0, broken


def _set_aside(directory: RunDirectory, steps: list[int], why: str) -> None:
    """Rename checkpoints that the run will reach again, so that the newest is always its own."""
    for step in steps:
        old = directory.checkpoint(step).with_name(f"step_{step}.{why}")
        shutil.rmtree(old, ignore_errors=True)
        directory.checkpoint(step).rename(old)


def _is_empty(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
