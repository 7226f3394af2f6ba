"""What the actions of one step hand to each other."""

from dataclasses import dataclass, field

from gkdplan.runtime.data.batch import MicroBatch
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.teacher.payload import TeacherPayload
from gkdplan.runtime.teacher.resharding import Resharding
from gkdplan.vocab import Source


@dataclass(slots=True)
class StepState:
    """Of one rank; `examples` and `responses` are its rows in the order of its micro-batches."""

    step: int
    examples: list[Example]
    source: Source = Source.DATASET
    responses: list[tuple[int, ...]] = field(default_factory=list)
    micro_batches: list[MicroBatch] = field(default_factory=list)
    payloads: list[TeacherPayload | None] = field(default_factory=list)
    resharding: Resharding | None = None
    num_tokens: int = 0
    loss: float = 0.0
    lr: float = 0.0
    grad_norm: float = 0.0
    load_balance: float | None = None
    is_skipped: bool = False
