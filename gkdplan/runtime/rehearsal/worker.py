"""The entry point of one rank of a rehearsal."""

import torch.distributed as dist

from gkdplan.runtime.interrupts import end_with_the_launcher
from gkdplan.runtime.phases import Position
from gkdplan.runtime.worker import last_words

ALONE = "alone"
"""The plan that rank 0 runs in a world of its own."""


def main(locks: dict[str, str], home: str, failures: str) -> None:
    """`first_step.rehearse` of all locks; of `ALONE` on rank 0, in a world of its own."""
    end_with_the_launcher()
    from gkdplan.runtime.megatron import platform
    from gkdplan.runtime.rehearsal.first_step import rehearse

    position = Position(step=1, phase="start")
    with last_words(failures, position) as rank:
        platform.prepare("gloo")
        dist.init_process_group("gloo")
        rehearse({name: lock for name, lock in locks.items() if name != ALONE}, home, position)
        dist.destroy_process_group()
        if rank == 0:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            rehearse({ALONE: locks[ALONE]}, home, position)
            dist.destroy_process_group()
