"""Why a run does not begin or go on in its directory, and what to do instead."""

from collections.abc import Iterator, Sequence

from gkdplan.diagnostics import Diagnostic, UserError, error, note, warning
from gkdplan.runplan.diff import Change
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.saved.run_directory import LOCK_NAME, RunDirectory

MOST_SHOWN = 5
"""Of the keys that differ."""


def of_another_plan(
    directory: RunDirectory, owner: RunPlan, changes: Sequence[Change]
) -> UserError:
    """`changes` are those that a run cannot go on with."""
    return UserError(
        error(
            "GK510",
            f"`{directory.path}` holds a run of another plan, `{owner.name}`",
            "run.output",
            label="nothing is overwritten",
            notes=(*(_words(change) for change in changes[:MOST_SHOWN]), *_rest(changes)),
            help=(
                "set `run.output` to another directory, or see all that differs with "
                f"`gkdplan diff {directory.lock} PLAN`",
            ),
        )
    )


def _words(change: Change) -> str:
    return f"`{change.path}` was {change.old}, is {change.new}"


def _rest(changes: Sequence[Change]) -> Iterator[str]:
    if len(changes) > MOST_SHOWN:
        yield f"and {len(changes) - MOST_SHOWN} more"


def foreign(directory: RunDirectory) -> UserError:
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


def not_whole(directory: RunDirectory, step: int, reason: str) -> Diagnostic:
    return error(
        "GK517",
        f"the checkpoint `{directory.checkpoint(step)}` is not whole: {reason}",
        "run.output",
        help=(
            "resume from an older checkpoint: `--resume` takes its directory",
            "or set `run.output` to another directory to begin anew",
        ),
    )


def skipped(directory: RunDirectory, step: int, reason: str, start_step: int) -> Diagnostic:
    path = directory.checkpoint(step)
    return warning(
        "GK535",
        f"the checkpoint `{path}` is not whole: {reason}",
        "run.output",
        notes=(f"the run went on after step {start_step}; this one is now {path.name}.broken",),
    )


def resharded(start_step: int, changes: Sequence[Change]) -> Diagnostic:
    return note(
        "GK539",
        f"the run went on after step {start_step} in another layout",
        "student.parallel",
        notes=(*(_words(change) for change in changes[:MOST_SHOWN]), *_rest(changes)),
    )


def in_use(directory: RunDirectory) -> UserError:
    return UserError(
        error(
            "GK518",
            f"another process is running the run in `{directory.path}`",
            "run.output",
            label="two runs would write over each other",
            help=("wait for it or stop it, or set `run.output` to another directory",),
        )
    )


def already_begun(directory: RunDirectory) -> UserError:
    return UserError(
        error(
            "GK511",
            f"`{directory.path}` already holds a run of this plan",
            "run.output",
            label="`--resume never` starts only in an empty directory",
            help=("run it with `--resume auto`, or set `run.output` to another directory",),
        )
    )


def unusable(directory: RunDirectory, failure: Exception) -> UserError:
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


def not_a_checkpoint(directory: RunDirectory, resume: str) -> UserError:
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


def finished(directory: RunDirectory, newest: int) -> UserError:
    return UserError(
        error(
            "GK513",
            f"the run in `{directory.path}` is finished: all {newest} steps are done",
            "run.output",
            notes=(f"its student lies in {directory.checkpoint(newest) / 'student'}",),
            help=("set `run.output` to another directory to run the plan again",),
        )
    )
