"""What a part has measured, kept in docs/benchmarks.json and shown in docs/benchmarks.md.

A part replaces its own results only, with the machine and the versions that they were taken with.
"""

import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORD, PAGE = ROOT / "docs" / "benchmarks.json", ROOT / "docs" / "benchmarks.md"
PACKAGES = ("torch", "transformers", "trl", "megatron-core")
HEADER = "| measured | beside | unit | theirs | gkdplan | ratio | wanted | |\n|" + "---|" * 8


@dataclass(frozen=True, slots=True)
class Target:
    """What the number, or its ratio to theirs, is wanted to be."""

    limit: float
    is_ceiling: bool
    is_ratio: bool

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.is_ceiling else value >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.is_ceiling else ">="
        return f"ratio {sign} {self.limit:g}" if self.is_ratio else f"{sign} {self.limit:g}"


def ratio_at_most(limit: float) -> Target:
    return Target(limit, is_ceiling=True, is_ratio=True)


def ratio_at_least(limit: float) -> Target:
    return Target(limit, is_ceiling=False, is_ratio=True)


def at_most(limit: float) -> Target:
    return Target(limit, is_ceiling=True, is_ratio=False)


@dataclass(frozen=True, slots=True)
class Measured:
    """A number of gkdplan's; `ratio` is it over `theirs`, where there is another's."""

    what: str
    unit: str
    ours: float
    beside: str = ""
    theirs: float | None = None
    ratio: float | None = None
    target: Target | None = None

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        value = self.ratio if self.target.is_ratio else self.ours
        assert value is not None
        return "met" if self.target.is_met(value) else "missed"

    def line(self) -> str:
        theirs, ratio = (_number(value) for value in (self.theirs, self.ratio))
        cells = [self.what, self.beside, self.unit, theirs, _number(self.ours), ratio]
        cells += [str(self.target or ""), self.verdict]
        return "| " + " | ".join(cells) + " |"


def record(
    part: str,
    setting: str,
    rows: Sequence[Measured],
    *,
    is_whole: bool = True,
    packages: Sequence[str] = PACKAGES,
) -> None:
    """Print the rows; where the part was measured at its own sizes, put them in the record in place
    of its last ones, and show them on the page between its markers."""
    caption = f"{setting}. {_machine()}; {_versions(packages)}; {datetime.now(UTC):%Y-%m-%d}."
    table = "\n".join([HEADER, *(row.line() for row in rows)])
    print(f"\n{caption}\n\n{table}\n", flush=True)
    if not is_whole:
        return
    results: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    results[part] = {
        "setting": setting,
        "machine": _machine(),
        "versions": {name: version(name) for name in packages},
        "measured": [asdict(row) | {"verdict": row.verdict} for row in rows],
    }
    RECORD.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(begin) == page.count(end) == 1, f"{PAGE.name} has no place for {part}"
    between = re.compile(f"{begin}.*{end}", re.DOTALL)
    shown = f"{begin}\n{caption}\n\n{table}\n{end}"
    PAGE.write_text(between.sub(lambda _: shown, page), encoding="utf-8")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory_bytes / 2**30:.0f} GiB"


def _versions(packages: Sequence[str]) -> str:
    return ", ".join(f"{name} {version(name)}" for name in packages)
