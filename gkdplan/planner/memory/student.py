"""The student's step on one rank: what its micro-batches keep, and the moments of their peak."""

from collections.abc import Iterator

from gkdplan.planner.memory import activations, recompute
from gkdplan.planner.memory.buffer import ACTIVATIONS, LOSS_TILES, TEMPORARIES, Buffer
from gkdplan.planner.memory.held_graphs import held_bytes
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.rank import Rank
from gkdplan.planner.memory.stage import (
    num_chunks_in_flight,
    num_held_in_backward,
    num_inputs_in_flight,
    num_left_at_embedding,
)
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
        held = held_bytes(rank.student.model, rank.student.batch)
        yield Buffer(TEMPORARIES, rank.state.bucket_bytes + held, phase, phase, "reduction")


def _moments(rank: Rank) -> dict[str, Moment]:
    """The loss, where it is; the backward of the last layer of a chunk; and that of the embedding,
    where it is. Other chunks wait for their backward."""
    model, batch, stage = rank.student.model, rank.student.batch, rank.student.model.stage
    num_micro_batches = rank.draft.batch.num_micro_batches
    num_in_flight = num_chunks_in_flight(stage, num_micro_batches)
    boundary = activations.boundary_bytes(model, batch)
    held = num_held_in_backward(stage, num_micro_batches) * boundary
    saved = (
        num_in_flight * recompute.chunk_bytes(model, batch)
        + _num_inputs(model, num_in_flight) * activations.input_bytes(model, batch)
        + activations.final_norm_bytes(model, batch)
        + held
    )
    kept = rank.loss.kept_bytes() if rank.has_loss else 0
    passing = recompute.repeated_bytes(model, batch) + activations.backward_bytes(model, batch)
    before = _num_of_batch_before(model, num_micro_batches) * boundary
    moments = {"backward": (saved + passing, kept)}
    if model.experts is not None:
        passing = recompute.forward_bytes(model, batch)
        passing -= activations.final_norm_bytes(model, batch)
        moments["forward"] = saved + before + passing, kept
    if rank.has_loss:
        hidden = activations.response_bytes(model, rank.student.num_response_tokens)
        tiles = rank.loss.gradient_bytes() + rank.loss.tile_bytes()
        moments["loss"] = saved + before + hidden, tiles
    if stage.is_first and model.trains_base:
        num_waiting = num_left_at_embedding(stage, num_micro_batches) - 1
        waiting = (
            num_waiting * recompute.chunk_bytes(model, batch)
            + num_inputs_in_flight(stage, num_waiting) * activations.input_bytes(model, batch)
            + held
            + held_bytes(model, batch)
        )
        moments["embedding"] = waiting + activations.embedding_bytes(model, batch), kept
    return moments


def _num_inputs(model: RankModel, num_in_flight: int) -> int:
    """Of the chunks in flight those whose input stays beside what the first norm keeps of it: a
    frozen embedding's output asks for a gradient, as a received input does."""
    return num_inputs_in_flight(model.stage, num_in_flight) if model.trains_base else num_in_flight


def _num_of_batch_before(model: RankModel, num_micro_batches: int) -> int:
    """Hidden states that 1F1B holds while a forward runs, until the next backward: of the
    micro-batch before its input, whose gradient is counted with what the schedule holds; where a
    frozen embedding made it, both; and the gradient that was received."""
    stage = model.stage
    is_followed = num_micro_batches > num_chunks_in_flight(stage, num_micro_batches)
    if stage.is_interleaved or not is_followed:
        return 0
    received = 0 if stage.is_last else 1
    if stage.is_first:
        return received + (0 if model.trains_base else 2)
    return received + num_held_in_backward(stage, num_micro_batches)
