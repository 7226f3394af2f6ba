"""The ledger beside the trace over the whole grid of the tests, as the table in docs/memory.md.

python benchmarks/ledger_errors.py [PART OF A NAME ...]

Without an argument the table is written between its markers; with some it is only printed, for the
configurations whose names hold one of them. Each core of the machine traces one at a time.
"""

import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "runtime")]

from trace_grid import GRID, compile_configuration  # noqa: E402

from gkdplan.report.trace import ClassComparison, compare  # noqa: E402
from gkdplan.runtime.trace import trace  # noqa: E402

PAGE = ROOT / "docs" / "memory.md"
BEGIN, END = "<!-- ledger_errors: begin -->", "<!-- ledger_errors: end -->"
HEADER = (
    "| configuration | stage | traced peak, GiB | teacher | student | optimizer |",
    "|---|---|---|---|---|---|",
)


def main() -> None:
    parts = sys.argv[1:]
    names = [name for name in GRID if not parts or any(part in name for part in parts)]
    lines, largest, num_phases = [*HEADER], 0.0, 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name, classes in zip(names, pool.map(_compare, names), strict=True):
            for of_class in classes:
                largest = max(largest, *map(abs, of_class.errors))
                num_phases += len(of_class.errors)
                lines.append(_line(name, of_class))
                print(lines[-1], flush=True)
    lines += [
        "",
        f"{len(names)} configurations, {num_phases} phases of a class; the largest error is "
        f"{largest:.3%}.",
    ]
    print(lines[-1])
    if not parts:
        _write("\n".join(lines))


def _compare(name: str) -> Sequence[ClassComparison]:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        run_plan = compile_configuration(Path(directory), **GRID[name])
        return compare(run_plan, trace(run_plan))


def _line(name: str, of_class: ClassComparison) -> str:
    traced = [phase for phase in of_class.phases if phase.error is not None]
    peak = max(phase.traced_bytes or 0 for phase in traced)
    cells = [name, str(of_class.memory.stage), f"{peak / 2**30:.2f}"]
    return "| " + " | ".join([*cells, *(f"{phase.error:+.3%}" for phase in traced)]) + " |"


def _write(table: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    between = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
    PAGE.write_text(between.sub(f"{BEGIN}\n{table}\n{END}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
