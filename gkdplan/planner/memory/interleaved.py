"""What Megatron's interleaved schedule holds, forward by forward and backward by backward.

Replayed is megatron/core/pipeline_parallel/schedules.py,
forward_backward_pipelining_with_interleaving, with transfers that overlap the work beside them. Its
forwards are numbered in the order of `get_schedule_table`: p micro-batches through chunk 0, the
same p through chunk 1, and so on; its backwards alike, from the last chunk to the first. After
2 (p - i - 1) + (v - 1) p forwards a backward follows each.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gkdplan.planner.memory.held import Held


@dataclass(frozen=True, slots=True)
class Interleaved:
    """Stage `index` of `num_stages` with `num_chunks` chunks, in a step of `num_micro_batches`;
    where they `differ` each is counted apart."""

    index: int
    num_stages: int
    num_chunks: int
    num_micro_batches: int
    differ: bool = False

    def forwards(self) -> Iterator[tuple[int, Held]]:
        """The chunk of each forward, and what is held while it runs: beside the inputs that stay
        the gradient that the next backward has received."""
        for k in range(self._num_warm_up):
            yield self._chunk(k), self._held(self._chunk(k), k + 1, 0, 0)
        for k in range(self._num_steady):
            forward = self._num_warm_up + k
            received = not self._is_loss(self._mirrored(k))
            chunk = self._chunk(forward)
            yield chunk, self._held(chunk, forward + 1, k, received)

    def backwards(self) -> Iterator[tuple[int, Held]]:
        """The chunk of each backward, and what is held when it begins, but for the gradient that it
        takes: the output that the forward before it is sending, and the next forward's input."""
        for k in range(self._num_steady):
            forward = self._num_warm_up + k
            sent = not self._is_loss(forward)
            received = forward + 1 < self._total and self._is_received(forward + 1)
            chunk = self._chunk(self._mirrored(k))
            yield chunk, self._held(chunk, forward + 1, k, sent + received)
        for k in range(self._num_steady, self._total):
            chunk = self._chunk(self._mirrored(k))
            yield chunk, self._held(chunk, self._total, k, 0)

    def _held(self, chunk: int, num_forwards: int, num_backwards: int, num_in_transit: int) -> Held:
        """With the inputs whose backward is over, each with its gradient, that each chunk of the
        model has from its latest forward (transformer_block.py, set_input_tensor), and the variable
        `input_tensor` from the end of the warm-up; and the gradient of the latest backward."""
        latest = {self._latest(chunk, num_forwards) for chunk in range(self.num_chunks)}
        if num_forwards > self._num_warm_up:
            latest.add(self._num_warm_up)
        over = {
            forward
            for forward in latest
            if forward >= 0
            and self._is_received(forward)
            and self._mirrored(forward) < num_backwards
        }
        between = 2 * len(over) + num_in_transit
        if num_backwards:
            before = self._mirrored(num_backwards - 1)
            between += self._is_received(before) and before not in over
        num_chunks = num_forwards - num_backwards
        num_embedded = self._in_flight(0, num_forwards, num_backwards) if self.is_first else 0
        held = Held(num_chunks, num_chunks - num_embedded, between)
        if not self.differ:
            return held
        in_flight = (
            self._in_flight(one, num_forwards, num_backwards) for one in range(self.num_chunks)
        )
        return replace(held, in_flight=tuple(in_flight), chunk=chunk)

    def _in_flight(self, chunk: int, num_forwards: int, num_backwards: int) -> int:
        """Those of one of the stage's chunks."""
        place_of_backward = self.num_chunks - 1 - chunk
        over = self._num_of_chunk(place_of_backward, num_backwards)
        return self._num_of_chunk(chunk, num_forwards) - over

    def _num_of_chunk(self, place: int, num_steps: int) -> int:
        """Of the first steps those of the chunk in a place of the order."""
        rounds, rest = divmod(num_steps, self._round)
        return rounds * self.num_stages + min(
            self.num_stages, max(0, rest - place * self.num_stages)
        )

    def _latest(self, chunk: int, num_forwards: int) -> int:
        """The last of the first forwards that is of the chunk; below 0 where none is."""
        num = self._num_of_chunk(chunk, num_forwards)
        rounds, place = divmod(num - 1, self.num_stages)
        return rounds * self._round + chunk * self.num_stages + place

    def _mirrored(self, step: int) -> int:
        """The backward of a forward, by its number, or the forward of a backward."""
        return step + (self.num_chunks - 1 - 2 * self._chunk(step)) * self.num_stages

    def _chunk(self, forward: int) -> int:
        return forward // self.num_stages % self.num_chunks

    def _is_received(self, forward: int) -> bool:
        """Whether the input comes from another stage or chunk: the model's first embeds it."""
        return not self.is_first or self._chunk(forward) > 0

    def _is_loss(self, forward: int) -> bool:
        """Whether nothing of the output is sent, and nothing received for its backward."""
        return self.is_last and self._chunk(forward) == self.num_chunks - 1

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == self.num_stages - 1

    @property
    def _round(self) -> int:
        return self.num_stages * self.num_chunks

    @property
    def _total(self) -> int:
        return self.num_micro_batches * self.num_chunks

    @property
    def _num_warm_up(self) -> int:
        num = 2 * (self.num_stages - self.index - 1) + (self.num_chunks - 1) * self.num_stages
        return min(num, self._total)

    @property
    def _num_steady(self) -> int:
        return self._total - self._num_warm_up
