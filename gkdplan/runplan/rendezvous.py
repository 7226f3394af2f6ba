"""How the ranks of a run meet, and how long they wait for each other."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Seconds after which a rank that the others wait for counts as lost. No step reads a clock:
    the process groups of torch.distributed keep the time."""

    collective_timeout_s: float = 1800.0


USUAL = Rendezvous()
