"""What leaves the device and comes back, and what else was priced."""

from dataclasses import dataclass

from gkdplan.runplan.steps import Move
from gkdplan.vocab import Verdict


@dataclass(frozen=True, slots=True)
class OffloadChoice:
    """What an offload of "auto" could be, and what it costs.

    `offloaded` are tables of the plan ("teacher", "optimizer"); `verdict` is "over" also where the
    host has too little memory; `transfer_s` are the seconds of a step's moves.
    """

    offloaded: tuple[str, ...]
    verdict: Verdict
    peak_bytes: int
    host_bytes_per_node: int
    transfer_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """The moves of one step, in order; `choices` are all that were priced where the plan left the
    offload open."""

    moves: tuple[Move, ...]
    choices: tuple[OffloadChoice, ...] = ()
