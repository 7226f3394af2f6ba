"""How the ranks of a run meet, and how long they wait for each other."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Ranks of several nodes meet on the first one, at `master_port`, within `join_timeout_s`. A
    rank that the others have waited for as long as `collective_timeout_s` counts as lost: no step
    reads a clock, the process groups of torch.distributed keep the time."""

    master_port: int = 29500
    join_timeout_s: float = 300.0
    collective_timeout_s: float = 1800.0


USUAL = Rendezvous()
