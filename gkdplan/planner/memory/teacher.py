"""The teacher's buffers: its weights, what passes through memory in its forward, its payload."""

from collections.abc import Iterator

from gkdplan.planner.memory import activations
from gkdplan.planner.memory.buffer import (
    ACTIVATIONS,
    FIRST,
    LAST,
    PAYLOADS,
    TEACHER_BODY,
    TEACHER_HEAD,
    Buffer,
)
from gkdplan.planner.memory.parameters import num_elements
from gkdplan.planner.memory.payload import payload_bytes
from gkdplan.planner.memory.rank import Rank
from gkdplan.planner.memory.stage import num_held_in_forward
from gkdplan.vocab import Phase


def weight_buffers(rank: Rank) -> Iterator[Buffer]:
    """The teacher's weights but its output head, and the head.

    The loss needs the head too: it lies where the student ends, and there the rank holds as much of
    it as of the student's own.
    """
    yield Buffer(TEACHER_BODY, body_bytes(rank), FIRST, LAST)
    yield Buffer(TEACHER_HEAD, head_bytes(rank), FIRST, LAST)


def body_bytes(rank: Rank) -> int:
    teacher = rank.teacher.model
    own_head = teacher.head_elements if teacher.stage.is_last else 0
    elements = sum(map(num_elements, teacher.chunks)) - own_head
    return elements * teacher.dtype.num_bytes


def head_bytes(rank: Rank) -> int:
    teacher = rank.teacher.model
    holders = [model.vocab_rows for model in (teacher, rank.student.model) if model.stage.is_last]
    return max(holders, default=0) * teacher.shape.hidden_size * teacher.dtype.num_bytes


def forward_buffers(rank: Rank) -> Iterator[Buffer]:
    """One micro-batch passes at a time; the payload is made where the teacher ends and kept where
    the student does, on the way it lies on both."""
    share, kind, phase = rank.teacher, rank.draft.objective.payload, Phase.TEACHER
    passing = activations.forward_bytes(share.model, share.batch)
    between = activations.boundary_bytes(share.model, share.batch)
    num_held = num_held_in_forward(share.model.stage, rank.draft.batch.num_micro_batches)
    yield Buffer(ACTIVATIONS, passing + num_held * between, phase, phase)
    made = payload_bytes(share.model, kind, share.response_tokens_of_all_rows)
    if rank.has_loss and share.model.stage.is_last:
        yield Buffer(PAYLOADS[kind], made, phase, Phase.STUDENT)
    elif share.model.stage.is_last:
        yield Buffer(PAYLOADS[kind], made, phase, phase)
    elif rank.has_loss:
        yield Buffer(PAYLOADS[kind], made, phase, Phase.STUDENT)
