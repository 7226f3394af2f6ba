"""The run directory: who owns it, what lies in it, where a run goes on; nothing is overwritten."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from gkdplan.diagnostics import Diagnostic, UserError, error, warning
from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.manifest import flaw

LOCK_NAME = "plan.lock.json"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A directory that holds this plan's run and no other's."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / LOCK_NAME

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def completions(self) -> Path:
        return self.path / "completions.jsonl"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step_{step}"

    def saved_steps(self) -> list[int]:
        """The steps of the checkpoints, rising; one that was being written does not count."""
        steps = (path.name.removeprefix("step_") for path in self.checkpoints.glob("step_*"))
        return sorted(int(step) for step in steps if step.isdecimal())

    def has_begun(self) -> bool:
        """Whether anything was logged or saved; a run refused at its start leaves nothing."""
        is_logged = self.metrics.is_file() and self.metrics.stat().st_size > 0
        return is_logged or bool(self.saved_steps())


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

    Raises UserError where the directory holds anything else than a run of this very plan, where
    that run is going on already (GK518), where it cannot be written (GK505), and where the
    checkpoint to go on from is not whole (GK517), or with "auto" none is.
    """
    directory = RunDirectory(Path(run_plan.training.output))
    try:
        file = _open_lock(directory, resume)
    except (OSError, ValueError) as failure:
        raise _unusable(directory, failure) from failure
    with file:
        try:
            start_step, skipped = _claim(directory, file, run_plan, resume)
        except (OSError, ValueError) as failure:
            raise _unusable(directory, failure) from failure
        yield directory, start_step, skipped


def _open_lock(directory: RunDirectory, resume: str) -> TextIO:
    """The lock of a run that is there, or of a new one, empty still."""
    if _is_empty(directory.path):
        if resume not in ("auto", "never"):
            raise _not_a_checkpoint(directory, resume)
        directory.path.mkdir(parents=True, exist_ok=True)
    elif not directory.lock.is_file():
        raise _foreign(directory)
    return directory.lock.open("a+", encoding="utf-8")


def _claim(
    directory: RunDirectory, file: TextIO, run_plan: RunPlan, resume: str
) -> tuple[int, tuple[Diagnostic, ...]]:
    """Lock the run and return the step after which it goes on, with the checkpoints that were
    skipped; its directory gets the plan, whose prices may be newer than the run."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(directory) from None
    file.seek(0)
    text = file.read()
    owner = decode(text, str(directory.lock)) if text else run_plan
    if directory.has_begun():
        _check_owner(directory, owner, run_plan)
        if resume == "never":
            raise _already_begun(directory)
    for partial in directory.checkpoints.glob(".step_*.partial"):
        shutil.rmtree(partial)
    if text != encode(run_plan):
        file.truncate(0)
        file.write(encode(run_plan))
        file.flush()
    return _resume_step(directory, run_plan, resume)


def _resume_step(
    directory: RunDirectory, run_plan: RunPlan, resume: str
) -> tuple[int, tuple[Diagnostic, ...]]:
    steps = directory.saved_steps()
    if resume not in ("auto", "never"):
        paths = {os.path.realpath(directory.checkpoint(step)): step for step in steps}
        asked = paths.get(os.path.realpath(resume))
        if asked is None:
            raise _not_a_checkpoint(directory, resume)
        if reason := flaw(directory.checkpoint(asked)):
            raise UserError(_broken(directory, asked, reason))
        _set_aside(directory, [step for step in steps if step > asked], "superseded")
        return asked, ()
    newest, broken = _newest_whole(directory, steps)
    if newest >= run_plan.training.num_steps:
        raise UserError(
            error(
                "GK513",
                f"the run in `{directory.path}` is finished: all {newest} steps are done",
                "run.output",
                notes=(f"its student lies in {directory.checkpoint(newest) / 'student'}",),
                help=("set `run.output` to another directory to run the plan again",),
            )
        )
    _set_aside(directory, list(broken), "broken")
    return newest, tuple(_skipped(directory, step, broken[step], newest) for step in broken)


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
        raise UserError(*(_broken(directory, step, reason) for step, reason in broken.items()))
    return 0, broken


def _set_aside(directory: RunDirectory, steps: list[int], why: str) -> None:
    """Rename checkpoints that the run will reach again, so that the newest is always its own."""
    for step in steps:
        old = directory.checkpoint(step).with_name(f"step_{step}.{why}")
        shutil.rmtree(old, ignore_errors=True)
        directory.checkpoint(step).rename(old)


def _check_owner(directory: RunDirectory, owner: RunPlan, run_plan: RunPlan) -> None:
    if owner.fingerprint != run_plan.fingerprint:
        raise UserError(
            error(
                "GK510",
                f"`{directory.path}` holds a run of another plan, `{owner.name}`",
                "run.output",
                label="nothing is overwritten",
                notes=(
                    f"its fingerprint is {owner.fingerprint[:12]}, "
                    f"this plan's is {run_plan.fingerprint[:12]}",
                ),
                help=(
                    "set `run.output` to another directory, or see what differs with "
                    f"`gkdplan diff {directory.lock} PLAN`",
                ),
            )
        )


def _foreign(directory: RunDirectory) -> UserError:
    is_directory = directory.path.is_dir()
    return UserError(
        error(
            "GK512",
            f"`{directory.path}` is not empty and holds no run"
            if is_directory
            else f"`{directory.path}` is not a directory",
            "run.output",
            label=f"it has no {LOCK_NAME}" if is_directory else "a run needs a directory",
            help=("set `run.output` to a directory that does not exist yet",),
        )
    )


def _broken(directory: RunDirectory, step: int, reason: str) -> Diagnostic:
    return error(
        "GK517",
        f"the checkpoint `{directory.checkpoint(step)}` is not whole: {reason}",
        "run.output",
        help=(
            "resume from an older checkpoint: `--resume` takes its directory",
            "or set `run.output` to another directory to begin anew",
        ),
    )


def _skipped(directory: RunDirectory, step: int, reason: str, start_step: int) -> Diagnostic:
    path = directory.checkpoint(step)
    return warning(
        "GK535",
        f"the checkpoint `{path}` is not whole: {reason}",
        "run.output",
        notes=(f"the run went on after step {start_step}; this one is now {path.name}.broken",),
    )


def _in_use(directory: RunDirectory) -> UserError:
    return UserError(
        error(
            "GK518",
            f"another process is running the run in `{directory.path}`",
            "run.output",
            label="two runs would write over each other",
            help=("wait for it or stop it, or set `run.output` to another directory",),
        )
    )


def _already_begun(directory: RunDirectory) -> UserError:
    return UserError(
        error(
            "GK511",
            f"`{directory.path}` already holds a run of this plan",
            "run.output",
            label="`--resume never` starts only in an empty directory",
            help=("run it with `--resume auto`, or set `run.output` to another directory",),
        )
    )


def _unusable(directory: RunDirectory, failure: Exception) -> UserError:
    """For an OSError of the directory or its lock, and a ValueError of a name or text."""
    reason = failure.strerror if isinstance(failure, OSError) else str(failure)
    return UserError(
        error(
            "GK505",
            f"the run directory `{directory.path}` cannot be used: {str(reason).lower()}",
            "run.output",
            help=("set `run.output` to a directory that can be written",),
        )
    )


def _not_a_checkpoint(directory: RunDirectory, resume: str) -> UserError:
    steps = directory.saved_steps()
    known = [str(directory.checkpoint(step)) for step in steps] or ["none"]
    return UserError(
        error(
            "GK514",
            f"`{resume}` is not a whole checkpoint of this run",
            "run.output",
            notes=(f"whole checkpoints: {', '.join(known)}",),
            help=("give `--resume auto`, or one of the checkpoints above",),
        )
    )


def _is_empty(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def read_metrics(path: Path) -> list[dict[str, object]]:
    """The lines of a metrics.jsonl file as dicts; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
