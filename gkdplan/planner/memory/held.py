"""What a schedule holds beside what layers keep."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Held:
    """Chunks whose forward has begun and whose backward is not over; those of them whose input was
    received; and hidden states, or gradients of them, that the schedule holds beside.

    Where a stage's chunks differ, `in_flight` counts each of them, and `chunk` is the one that is
    under way.
    """

    num_chunks: int
    num_inputs: int
    num_between: int
    in_flight: tuple[int, ...] = ()
    chunk: int = 0

    @property
    def num_embedded(self) -> int:
        """Chunks under way that begin with the embedding: the model's first."""
        return self.num_chunks - self.num_inputs

    @property
    def waiting(self) -> "Held":
        """Without the chunk that is under way."""
        others = tuple(num - (chunk == self.chunk) for chunk, num in enumerate(self.in_flight))
        return replace(self, num_chunks=max(0, self.num_chunks - 1), in_flight=others)


@dataclass(frozen=True, slots=True)
class HeldAt:
    """What can be held at each kind of moment: in forwards, of these those that begin with the
    embedding and those that end in the loss, in backwards, and in those of the embedding."""

    forward: frozenset[Held]
    embedded: frozenset[Held]
    loss: frozenset[Held]
    backward: frozenset[Held]
    embedding: frozenset[Held]
