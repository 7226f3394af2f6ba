"""What a rehearsal of a plan measures: three claims, two numbers each."""

from dataclasses import dataclass
from enum import StrEnum


class Claim(StrEnum):
    """What must hold of a plan's step, whatever its models."""

    ITSELF = "itself"
    """A student that is its own teacher has no loss and no gradient."""
    LAYOUT = "layout"
    """The plan's layout gives the loss and the gradients of one process."""
    SPLIT = "split"
    """So do micro-batches of another size."""


@dataclass(frozen=True, slots=True)
class Check:
    """One measured number, `what` ("loss" or "gradient"), of a claim.

    Of `ITSELF` absolute, the largest element of any gradient; of the others relative, the error of
    the parameter that is farthest off. `parameter` names it as the checkpoint does.
    """

    claim: Claim
    what: str
    measured: float
    tolerance: float
    parameter: str | None = None

    @property
    def holds(self) -> bool:
        return self.measured <= self.tolerance
