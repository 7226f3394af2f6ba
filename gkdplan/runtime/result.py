"""What a run gives back to the command that started it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gkdplan.diagnostics import Diagnostic

FINISHED = 0
STOPPED_RESUMABLE = 4
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    `exit_code` is 0, 1 where the user has to mend something first, 4 where it stopped and can be
    resumed, 130 where Ctrl-C stopped it, which can be resumed too; `diagnostics` say why.
    `summary` of a finished run has held_out_before and held_out_after (each {"jsd",
    "cross_entropy", "num_tokens"} or None), memory ({phase: {"planned_bytes",
    "measured_bytes"}}), skipped_steps ([step]), warnings ([{"step", "code", "message"}]) and
    samples ({"student" | "teacher": {"prompt", "completion"}}).
    """

    exit_code: int
    run_dir: Path
    student_dir: Path | None
    summary: dict[str, Any]
    diagnostics: tuple[Diagnostic, ...] = ()
