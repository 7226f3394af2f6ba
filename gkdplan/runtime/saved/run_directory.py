"""What lies in a run directory."""

import json
from dataclasses import dataclass
from pathlib import Path

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

    @property
    def tokens(self) -> Path:
        return self.path / "tokens.jsonl"

    @property
    def answers(self) -> Path:
        return self.path / "answers.jsonl"

    @property
    def rows(self) -> Path:
        """Where the tokens of its rows are, unless `data.cache` names another place."""
        return self.path / "rows"

    def skipped(self, step: int) -> Path:
        """Where the rows of a step are that was left out."""
        return self.path / "skipped" / f"step_{step}"

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


def read_metrics(path: Path) -> list[dict[str, object]]:
    """The lines of metrics.jsonl, or of another log, as dicts; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
