"""What leaves the device and comes back, and what else was priced."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gkdplan.runplan.steps import Move
from gkdplan.vocab import Verdict


@dataclass(frozen=True, slots=True)
class OffloadChoice:
    """What an offload of "auto" could be, and what it costs.

    `offloaded` names what leaves the device ("teacher", "student's gradients"); `verdict` is "over"
    also where the host has too little memory; `exposed_s` are the seconds of a step's copies that
    no work hides.
    """

    offloaded: tuple[str, ...]
    verdict: Verdict
    peak_bytes: int
    host_bytes_per_node: int
    exposed_s: float


class Obstacle(StrEnum):
    """Why the copy of an object to the device begins only when the object is needed."""

    ONE_MEMORY = "device and host are one memory"
    NOT_WANTED = "the plan says `prefetch = false`"
    NOTHING_BEFORE = "nothing runs before it in a step"
    NO_ROOM = "no phase before it has room and time for it"
    IN_USE_BEFORE = "it makes room for what runs before it"
    OF_THE_ENGINE = "vllm wakes while nothing else runs"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The moves of one step, in order; `choices` are all that were priced where the plan left the
    offload open; `not_prefetched` are objects that are copied to the device and waited for."""

    moves: tuple[Move, ...]
    choices: tuple[OffloadChoice, ...] = ()
    not_prefetched: Mapping[str, Obstacle] = field(default_factory=dict)
