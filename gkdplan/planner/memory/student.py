"""The student's step on one rank: what its micro-batches keep, and the moments of their peak."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gkdplan.planner.memory import activations, norms, recompute
from gkdplan.planner.memory.batch import Batch, boundary_bytes
from gkdplan.planner.memory.buffer import ACTIVATIONS, LOSS_TILES, TEMPORARIES, Buffer
from gkdplan.planner.memory.held import Held
from gkdplan.planner.memory.held_graphs import held_bytes
from gkdplan.planner.memory.in_flight import held_in_training
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.places import most_by_chunk, places
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
    chunks, layers = recompute.chunk_bytes(model, batch), places(model, batch)

    def saved(at: Iterable[Held], added: Mapping[int, int] | None = None) -> int:
        return max(
            _held_bytes(model, batch, chunks, held)
            + held.num_embedded * seen
            + (0 if added is None else added[held.chunk])
            for held in at
        )

    backward = most_by_chunk(layers, lambda place: place.backward_bytes(batch))
    in_attention = most_by_chunk(layers, lambda place: place.attention_bytes(batch))
    forward = most_by_chunk(layers, lambda place: place.forward_bytes(batch))
    moments = {
        "backward": (saved(held.backward, backward), kept),
        "forward": (saved(held.forward, forward) + rank.student.said_bytes, kept),
    }
    if rank.student.seen_of_row:
        waiting = saved(at.waiting for at in held.embedded)
        moments["images"] = waiting + rank.student.looking_bytes, kept
    if max(in_attention.values()) > 0:
        moments["attention"] = saved(held.backward, in_attention), kept
    if held.loss:
        hidden = activations.response_bytes(model, rank.student.num_response_tokens)
        tiles = loss.gradient_bytes() + loss.tile_bytes() + loss.token_bytes()
        moments["loss"] = saved(held.loss) + norm + hidden, tiles
    passing = rank.student.seen_backward_bytes
    if model.trains_base:
        passing = max(passing, activations.embedding_bytes(model, batch))
    if held.embedding and passing:
        waiting = max(
            _held_bytes(model, batch, chunks, at.waiting) + at.num_embedded * seen
            for at in held.embedding
        )
        waiting += held_bytes(model, batch)
        moments["embedding"] = waiting + passing, kept
    return moments


def _held_bytes(model: RankModel, batch: Batch, chunks: Sequence[int], held: Held) -> int:
    """With what each of the stage's chunks keeps. Of the chunks in flight also the inputs that stay
    beside what the first norm keeps of them: a frozen embedding's output asks for a gradient, as a
    received input does."""
    num_inputs = held.num_inputs if model.trains_base else held.num_chunks
    if held.in_flight:
        kept = sum(num * chunk for num, chunk in zip(held.in_flight, chunks, strict=True))
    else:
        (chunk,) = chunks
        kept = held.num_chunks * chunk
    return (
        kept
        + num_inputs * activations.input_bytes(model, batch)
        + held.num_between * boundary_bytes(model, batch)
    )
