"""What happened to the ranks of one host, in a file of its own."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TextIO

from gkdplan.runtime.failures import exit_code_of
from gkdplan.runtime.hosts.placement import Placement
from gkdplan.runtime.hosts.roll_call import Verdict


class NodeLog:
    """Appends lines to logs/node_N.log of the run directory, which the ranks of host N share."""

    def __init__(self, run_dir: Path, placement: Placement, per_node: int) -> None:
        self._path = run_dir / "logs" / f"node_{placement.rank // per_node}.log"
        self._rank = placement.rank
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._file is not None
        self._file.close()

    def write(self, line: str) -> None:
        assert self._file is not None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._file.write(f"{now} rank {self._rank}: {line}\n")
        self._file.flush()

    def write_findings(self, verdict: Verdict) -> None:
        for found in verdict:
            self.write("\n".join((f"{found.code}: {found.message}", *found.notes)))

    def end(self, verdict: Verdict) -> None:
        """Of a rank that another one told why the run ends: it has nothing else to do."""
        self.write_findings(verdict)
        os._exit(exit_code_of(verdict))
