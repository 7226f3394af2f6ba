"""A directory that keeps the tokens of rows: where it is, and one process at a time writing."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.saved.full_disk import disk_errors
from gkdplan.runtime.saved.run_directory import RunDirectory

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KeptIn:
    """The directory at `path`, which the plan's `key` names."""

    path: Path
    key: str

    @classmethod
    def of(cls, plan: RunPlan) -> "KeptIn":
        """`data.cache`, or a part of the run's own directory."""
        if plan.data.cache:
            return cls(Path(plan.data.cache), "data.cache")
        return cls(RunDirectory(Path(plan.training.output)).rows, "run.output")

    @contextmanager
    def alone(self, name: str, tell: Tell, doing: str) -> Iterator[None]:
        """No other process is inside that asks for the same `name`; where one is there already,
        `tell` hears what it is doing. The operating system takes the lock back, however a process
        ends.

        Raises UserError where the directory cannot be used (GK493), or its disk is full (GK536).
        """
        lock = self.path / f"{name}.lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = lock.open("w")
        except OSError as failure:
            raise self._unusable(failure) from failure
        with file, disk_errors(self.path, self.key):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"another run {doing} {self.path}: waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _unusable(self, failure: OSError) -> UserError:
        reason = (failure.strerror or type(failure).__name__).lower()
        return UserError(
            error(
                "GK493",
                f"the tokens of rows cannot be kept in `{self.path}`: {reason}",
                self.key,
                help=(f"name a directory in `{self.key}` that can be written",),
            )
        )
