"""What a schedule holds beside what layers keep."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """Chunks whose forward has begun and whose backward is not over; those of them whose input was
    received; and hidden states, or gradients of them, that the schedule holds beside."""

    num_chunks: int
    num_inputs: int
    num_between: int


@dataclass(frozen=True, slots=True)
class HeldAt:
    """What can be held at each kind of moment: in forwards, of these those that end in the loss, in
    backwards, and in those of the embedding."""

    forward: frozenset[Held]
    loss: frozenset[Held]
    backward: frozenset[Held]
    embedding: frozenset[Held]
