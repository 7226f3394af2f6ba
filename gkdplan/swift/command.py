"""What a file asks of ms-swift: flags, each with its line, and the environment before them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gkdplan.diagnostics import Span, UserError, error

RENAMED = {
    "train_type": "tuner_type",
    "save": "output_dir",
    "save_interval": "save_steps",
    "eval_interval": "eval_steps",
    "log_interval": "logging_steps",
    "max_epochs": "num_train_epochs",
    "load": "mcore_model",
    "num_workers": "dataloader_num_workers",
    "wandb_exp_name": "wandb_run_name",
}
"""Names of ms-swift 3.x: those of 4.x."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag with its values, none where it stands alone; `name` is 4.x's, `written` the file's.

    `role` is the group of a Ray file that it stands in: "train", "rollout" or "teacher".
    """

    written: str
    values: tuple[str, ...]
    span: Span
    role: str = ""

    @property
    def name(self) -> str:
        plain = self.written.replace("-", "_")
        return RENAMED.get(plain, plain)

    @property
    def label(self) -> str:
        return f"--{self.written}"

    def __str__(self) -> str:
        return " ".join((f"--{self.written}", *self.values))


@dataclass(frozen=True, slots=True)
class Command:
    """Flags in their order, with what a script or a Ray file says of the machines."""

    file: str
    flags: tuple[Flag, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    """Of a Ray file: GPUs of each role."""
    colocated: bool = True
    """Of a Ray file: whether the rollout shares the GPUs of training."""


def place_of(file: str, lines: tuple[str, ...], line: int, text: str) -> Span:
    """Where a text stands in a line of a file; the line where it does not."""
    written = lines[line - 1] if 0 < line <= len(lines) else ""
    found = re.search(rf"(--)?{re.escape(text)}(?![\w-])", written)
    if found is None:
        return Span(file, line, 1, max(1, len(written)))
    return Span(file, line, found.start() + 1, len(found.group()))


def refused(message: str, span: Span | None, *, label: str = "", help: str = "") -> UserError:
    """GK010, to be raised."""
    return UserError(error("GK010", message, label=label, help=(help,) if help else ()).at(span))
