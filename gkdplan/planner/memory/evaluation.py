"""The buffers of an evaluation, which runs in the phase of checkpoints."""

from collections.abc import Iterator
from dataclasses import replace

from gkdplan.planner.memory import activations
from gkdplan.planner.memory.buffer import ACTIVATIONS, LOSS_TILES, TEACHER_BODY, Buffer
from gkdplan.planner.memory.rank import Rank
from gkdplan.planner.memory.teacher import body_bytes, visiting_bytes
from gkdplan.vocab import Payload, Phase, Tier


def evaluation_buffers(rank: Rank) -> Iterator[Buffer]:
    """Held-out rows go through both models after the optimizer's step, the teacher's body being
    fetched for it where it is offloaded. A server gives its likeliest ids, as for training."""
    phase, moment = Phase.CHECKPOINT, "evaluation"
    student = rank.student
    passing = max(
        max(
            activations.forward_bytes(share.model, share.batch) + share.said_bytes,
            share.looking_bytes,
        )
        for share in rank.shares
    )
    if rank.draft.models.teacher.offload is Tier.HOST:
        is_streamed = rank.draft.models.teacher.stream
        num_bytes = visiting_bytes(rank) if is_streamed else body_bytes(rank)
        yield Buffer(TEACHER_BODY, num_bytes, phase, phase, moment)
    if not rank.has_loss:
        yield Buffer(ACTIVATIONS, passing, phase, phase, moment)
        return
    hidden = activations.response_bytes(student.model, student.num_response_tokens)
    loss = replace(rank.loss, payload=Payload.HIDDEN) if rank.has_teacher else rank.loss
    yield Buffer(ACTIVATIONS, passing + hidden, phase, phase, moment)
    yield Buffer(LOSS_TILES, loss.tile_bytes(), phase, phase, moment)
