"""What torch sees of this machine: its devices, and what ranks can talk over."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.runplan.model import RunPlan
from gkdplan.units import format_bytes


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device; bytes are the total that CUDA reports, and those that are free now."""

    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Devices:
    """`gloo` and `nccl` say whether this build of torch has them."""

    gpus: tuple[Gpu, ...]
    cuda: str | None
    gloo: bool
    nccl: bool


def look_at_devices() -> Devices:
    """Facts of this machine's devices; no CUDA context stays."""
    return Devices(
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())),
        cuda=torch.version.cuda,
        gloo=dist.is_available() and dist.is_gloo_available(),
        nccl=dist.is_available() and dist.is_nccl_available(),
    )


def _gpu(index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    return Gpu(torch.cuda.get_device_name(index), total, free)


def too_small(run_plan: RunPlan) -> Iterator[Diagnostic]:
    """GK589 where the smallest GPU that the plan takes has less than its fullest rank needs."""
    ledger, num_taken = run_plan.ledger, run_plan.layout.devices_per_node
    gpus = look_at_devices().gpus[:num_taken]
    smallest = min(gpus, key=lambda gpu: gpu.memory_bytes, default=None)
    if smallest and smallest.memory_bytes < ledger.peak_bytes:
        has, peak = format_bytes(smallest.memory_bytes), format_bytes(ledger.peak_bytes)
        yield error(
            "GK589",
            f"a rank needs {peak} in {ledger.peak_phase}, and {smallest.name} has {has}",
            "cluster.device",
            label=f"it was planned for {run_plan.layout.device}",
            help=(f'set `cluster.memory_limit = "{has}"`: `gkdplan search` then finds what fits',),
        )
