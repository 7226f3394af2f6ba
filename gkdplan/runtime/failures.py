"""What ended a run that did not finish, from what its ranks left behind."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.runtime.hosts import lost_ranks
from gkdplan.runtime.phases import Position
from gkdplan.runtime.result import STOPPED_RESUMABLE
from gkdplan.runtime.saved import full_disk
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.runtime.worker import position_file

RAISED, KILLED, NO_SERVER, NO_TEACHER = "GK530", "GK531", "GK546", "GK551"
RESUMABLE = (RAISED, KILLED, NO_SERVER, NO_TEACHER, full_disk.CODE, lost_ranks.CODE)
"""What ends a run that nothing has to be mended for in the plan."""


def exit_code_of(found: Sequence[Diagnostic]) -> int:
    """4 where the same command goes on, 1 where something has to be mended first."""
    return STOPPED_RESUMABLE if found[0].code in RESUMABLE else 1


def what_failed(
    failure: ChildFailedError, failures: Path, help: tuple[str, ...]
) -> tuple[Diagnostic, ...]:
    """What the failed ranks left behind in `failures`: what the user has to mend, or else the first
    rank that raised (GK530); a rank that was killed leaves only its signal (GK531)."""
    rank, first_failure = failure.get_first_failure()
    if first_failure.exitcode < 0:
        return (_killed(rank, first_failure.exitcode, failures, help),)
    reports = [json.loads(path.read_text()) for path in sorted(failures.glob("rank_*.json"))]
    user_errors = [found for report in reports for found in report["diagnostics"]]
    if user_errors:
        return tuple(Diagnostic(**found) for found in _unique(user_errors))
    if not reports:
        return (_killed(rank, first_failure.exitcode, failures, help),)
    first = min(reports, key=lambda report: report["time"])
    position = Position(first["step"], first["phase"])
    return (raised(first["rank"], position, first["traceback"], help),)


def raised(rank: int, position: Position, trace: str, help: tuple[str, ...]) -> Diagnostic:
    """GK530; `trace` is Python's traceback."""
    return error(
        RAISED,
        f"rank {rank} raised in {position}",
        notes=tuple(trace.rstrip().splitlines()),
        help=help,
    )


def _killed(rank: int, exit_code: int, failures: Path, help: tuple[str, ...]) -> Diagnostic:
    file = position_file(str(failures), rank)
    where = f" in {file.read_text(encoding='utf-8')}" if file.exists() else ""
    return error(
        KILLED,
        f"rank {rank} ended with {_ending(exit_code)}{where}",
        notes=("a killed process leaves no traceback: look for the out-of-memory killer",),
        help=help,
    )


def how_to_go_on(directory: RunDirectory) -> tuple[str, ...]:
    steps = directory.saved_steps()
    if steps:
        return (f"run the same command again: it goes on after step {steps[-1]}",)
    return ("run the same command again: it starts anew, as no checkpoint was saved yet",)


def _ending(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"


def _unique(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [found for i, found in enumerate(findings) if found not in findings[:i]]
