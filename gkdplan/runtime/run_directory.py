"""The run directory: who owns it, what lies in it, where a run goes on; nothing is overwritten."""

import json
from dataclasses import dataclass
from pathlib import Path

from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.model import RunPlan

LOCK_NAME = "plan.lock.json"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A directory that holds this plan's run and no other's."""

    path: Path

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
        """The steps of the whole checkpoints, rising; one that was being written does not count."""
        states = self.checkpoints.glob("step_*/state/state.json")
        return sorted(int(state.parent.parent.name.removeprefix("step_")) for state in states)


def open_run_directory(run_plan: RunPlan, resume: str) -> tuple[RunDirectory, int]:
    """Claim the plan's run directory and say after which step the run goes on.

    `resume` is "auto" (from the newest checkpoint, if any), "never" (only into an empty
    directory), or the path of one of the run's checkpoints.

    Raises UserError where the directory holds anything else than a run of this very plan.
    """
    directory = RunDirectory(Path(run_plan.training.output))
    if _is_empty(directory.path):
        if resume not in ("auto", "never"):
            raise _not_a_checkpoint(directory, resume)
        directory.path.mkdir(parents=True, exist_ok=True)
        (directory.path / LOCK_NAME).write_text(encode(run_plan), encoding="utf-8")
        return directory, 0
    _check_owner(directory, run_plan)
    if resume == "never":
        raise UserError(
            error(
                "GK511",
                f"`{directory.path}` already holds a run of this plan",
                "run.output",
                label="`--resume never` starts only in an empty directory",
                help=("run it with `--resume auto`, or set `run.output` to another directory",),
            )
        )
    return directory, _resume_step(directory, run_plan, resume)


def _resume_step(directory: RunDirectory, run_plan: RunPlan, resume: str) -> int:
    steps = directory.saved_steps()
    if resume != "auto":
        asked = Path(resume)
        found = [step for step in steps if directory.checkpoint(step).resolve() == asked.resolve()]
        if not found:
            raise _not_a_checkpoint(directory, resume)
        return found[0]
    newest = steps[-1] if steps else 0
    if newest == run_plan.training.num_steps:
        raise UserError(
            error(
                "GK513",
                f"the run in `{directory.path}` is finished: all {newest} steps are done",
                "run.output",
                notes=(f"its student lies in {directory.checkpoint(newest) / 'student'}",),
                help=("set `run.output` to another directory to run the plan again",),
            )
        )
    return newest


def _check_owner(directory: RunDirectory, run_plan: RunPlan) -> None:
    lock = directory.path / LOCK_NAME
    if not lock.is_file():
        raise UserError(
            error(
                "GK512",
                f"`{directory.path}` is not empty and holds no run",
                "run.output",
                label=f"it has no {LOCK_NAME}",
                help=("set `run.output` to a directory that does not exist yet",),
            )
        )
    owner = decode(lock.read_text(encoding="utf-8"))
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
                    f"`gkdplan diff {lock} PLAN`",
                ),
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
