"""The student's step on one rank: what its micro-batches keep, and the moments of their peak."""

from collections.abc import Iterator
from dataclasses import replace

from gkdplan.planner.memory import activations, norms, recompute
from gkdplan.planner.memory.batch import Batch, boundary_bytes
from gkdplan.planner.memory.buffer import ACTIVATIONS, LOSS_TILES, TEMPORARIES, Buffer
from gkdplan.planner.memory.held import Held
from gkdplan.planner.memory.held_graphs import held_bytes
from gkdplan.planner.memory.in_flight import held_in_training
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.places import places
from gkdplan.planner.memory.rank import Rank
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
    """The loss, where it is; forward and backward of the layer of a chunk where they need most, and
    of its attention where that goes block by block; and the backward of the embedding and of
    images, where they are. Other chunks wait for their backward."""
    model, batch, loss = rank.student.model, rank.student.batch, rank.loss
    num_micro_batches = rank.draft.batch.num_micro_batches
    held = held_in_training(model.stage, num_micro_batches, trains_base=model.trains_base)
    norm = norms.final_norm_bytes(model, batch)
    kept = loss.kept_bytes() if rank.has_loss else 0
    seen = rank.student.seen_bytes

    def saved(at: frozenset[Held]) -> int:
        return max(_held_bytes(model, batch, held) + held.num_chunks * seen for held in at)

    layers = places(model, batch)
    backward = max(place.backward_bytes(batch) - place.freed for place in layers)
    in_attention = max(place.attention_bytes(batch) - place.freed for place in layers)
    forward = max(place.forward_bytes(batch) - place.freed for place in layers)
    moments = {
        "backward": (saved(held.backward) + backward, kept),
        "forward": (saved(held.forward) + forward + rank.student.said_bytes, kept),
    }
    if rank.student.seen_of_row:
        others = [replace(at, num_chunks=max(0, at.num_chunks - 1)) for at in held.forward]
        waiting = max(_held_bytes(model, batch, at) + at.num_chunks * seen for at in others)
        moments["images"] = waiting + rank.student.looking_bytes, kept
    if in_attention > 0:
        moments["attention"] = saved(held.backward) + in_attention, kept
    if held.loss:
        hidden = activations.response_bytes(model, rank.student.num_response_tokens)
        tiles = loss.gradient_bytes() + loss.tile_bytes() + loss.token_bytes()
        moments["loss"] = saved(held.loss) + norm + hidden, tiles
    passing = rank.student.seen_backward_bytes
    if model.trains_base:
        passing = max(passing, activations.embedding_bytes(model, batch))
    if held.embedding and passing:
        waiting = max(
            _waiting_bytes(model, batch, at) + at.num_chunks * seen for at in held.embedding
        )
        moments["embedding"] = waiting + passing, kept
    return moments


def _held_bytes(model: RankModel, batch: Batch, held: Held) -> int:
    """Of the chunks in flight also the inputs that stay beside what the first norm keeps of them: a
    frozen embedding's output asks for a gradient, as a received input does."""
    num_inputs = held.num_inputs if model.trains_base else held.num_chunks
    return (
        held.num_chunks * recompute.chunk_bytes(model, batch)
        + num_inputs * activations.input_bytes(model, batch)
        + held.num_between * boundary_bytes(model, batch)
    )


def _waiting_bytes(model: RankModel, batch: Batch, held: Held) -> int:
    """Beside the embedding's backward, whose chunk is released but for what its experts hold."""
    others = replace(held, num_chunks=held.num_chunks - 1)
    return _held_bytes(model, batch, others) + held_bytes(model, batch)
