"""The student's step on one rank: what its micro-batches keep, and the moments of their peak."""

from collections.abc import Iterator

from gkdplan.planner.memory import activations
from gkdplan.planner.memory.buffer import ACTIVATIONS, LOSS_TILES, TEMPORARIES, Buffer
from gkdplan.planner.memory.rank import Rank
from gkdplan.planner.memory.stage import num_chunks_in_flight
from gkdplan.vocab import Phase

Moment = tuple[int, int]
"""Bytes of activations and of the loss."""


def student_buffers(rank: Rank) -> Iterator[Buffer]:
    """Each moment that can be the peak of forward and backward, and the gradients' reduction."""
    phase = Phase.STUDENT
    for moment, (activation_bytes, loss_bytes) in _moments(rank).items():
        yield Buffer(ACTIVATIONS, activation_bytes, phase, phase, moment)
        yield Buffer(LOSS_TILES, loss_bytes, phase, phase, moment)
    if rank.draft.optimizer.distributed and rank.draft.layout.backend == "gloo":
        yield Buffer(TEMPORARIES, rank.state.bucket_bytes, phase, phase, "reduction")


def _moments(rank: Rank) -> dict[str, Moment]:
    """The loss, where it is; the backward of the last layer of a chunk; and that of the embedding,
    where it is, whose gradient is as large as the matrix. Other chunks wait for their backward.
    """
    model, batch = rank.student.model, rank.student.batch
    chunk = activations.chunk_bytes(model, batch)
    num_in_flight = num_chunks_in_flight(model.stage, rank.draft.batch.num_micro_batches)
    waiting = (num_in_flight - 1) * chunk
    saved = waiting + chunk + activations.final_norm_bytes(model, batch)
    kept = rank.loss.kept_bytes() if rank.has_loss else 0
    moments = {"backward": (saved + activations.backward_bytes(model, batch), kept)}
    if rank.has_loss:
        hidden = activations.hidden_bytes(model, batch, rank.student.num_response_tokens)
        tiles = rank.loss.gradient_bytes() + rank.loss.tile_bytes()
        moments["loss"] = saved + hidden, tiles
    if model.stage.is_first:
        gradient = model.head_elements * model.dtype.num_bytes
        moments["embedding"] = waiting + gradient, kept
    return moments
