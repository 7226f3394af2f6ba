"""Whether this host has the memory that the ranks of a plan will take of it."""

from collections.abc import Iterator
from pathlib import Path

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.runplan.model import RunPlan
from gkdplan.units import format_bytes

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def too_little(run_plan: RunPlan) -> Iterator[Diagnostic]:
    """GK585 where less is available than the plan needs a node: what it keeps on the host, and on a
    cpu every rank's peak too."""
    ledger, layout = run_plan.ledger, run_plan.layout
    on_device = ledger.peak_bytes * layout.devices_per_node if layout.backend == "gloo" else 0
    wanted, available = ledger.host_bytes_per_node + on_device, available_bytes()
    if available is not None and wanted > available:
        parts = []
        if ledger.host_bytes_per_node:
            parts.append(f"{format_bytes(ledger.host_bytes_per_node)} that is offloaded")
        if on_device:
            peak = format_bytes(ledger.peak_bytes)
            parts.append(f"{layout.devices_per_node} x {peak}, the peak of a rank")
        yield error(
            "GK585",
            f"the plan needs {format_bytes(wanted)} of this host's memory, and "
            f"{format_bytes(available)} are available",
            "cluster.devices_per_node",
            label="the ranks of a node would be killed",
            notes=(" + ".join(parts),),
            help=("end what else runs here, or see `gkdplan search PLAN` for a smaller layout",),
        )


def available_bytes() -> int | None:
    """What the kernel can give without swapping, within the control group's limit; None where it
    does not say."""
    found = [number for number in (_of_the_kernel(), _of_the_group()) if number is not None]
    return min(found, default=None)


def _of_the_kernel() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, ValueError, StopIteration):
        return None


def _of_the_group() -> int | None:
    """Version 2 of control groups, where a container has a limit."""
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        statistics = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = next(int(line.split()[1]) for line in statistics if line.startswith("file "))
        return None if limit == "max" else int(limit) - used + cached
    except (OSError, ValueError, StopIteration):
        return None
