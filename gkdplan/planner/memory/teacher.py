"""The teacher's buffers: its weights, what passes through memory in its forward, its payload."""

from collections.abc import Iterator
from dataclasses import replace

from gkdplan.planner.memory import activations
from gkdplan.planner.memory.buffer import (
    ACTIVATIONS,
    FIRST,
    LAST,
    LOSS_TILES,
    PAYLOADS,
    TEACHER_BODY,
    TEACHER_HEAD,
    Buffer,
)
from gkdplan.planner.memory.parameters import num_elements
from gkdplan.planner.memory.payload import payload_bytes
from gkdplan.planner.memory.rank import Rank
from gkdplan.planner.memory.stage import num_held_in_forward
from gkdplan.vocab import Payload, Phase


def weight_buffers(rank: Rank) -> Iterator[Buffer]:
    """The teacher's weights but its output head, and the head.

    The loss needs the head too: it lies where the student ends, and there the rank holds as much of
    it as of the student's own. Behind a server it has none here.
    """
    if not rank.has_teacher:
        return
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
    the student does. Where the layouts differ it lies on both when it is sent. From a server only
    the payload comes."""
    if rank.has_teacher:
        yield from _made_here(rank)
    if rank.has_loss:
        row = PAYLOADS[rank.draft.objective.payload]
        yield Buffer(row, _kept_bytes(rank), Phase.TEACHER, Phase.STUDENT)


def _made_here(rank: Rank) -> Iterator[Buffer]:
    teacher, phase = rank.teacher, Phase.TEACHER
    passing = activations.forward_bytes(teacher.model, teacher.batch)
    between = activations.boundary_bytes(teacher.model, teacher.batch)
    num_held = num_held_in_forward(teacher.model.stage, rank.draft.batch.num_micro_batches)
    objective, layout = rank.draft.objective, rank.draft.layout
    searches = objective.payload is Payload.TOP_K and teacher.model.stage.is_last
    moment = "layers" if searches else None
    yield Buffer(ACTIVATIONS, passing + num_held * between, phase, phase, moment)
    if searches:
        hidden = activations.response_bytes(teacher.model, teacher.num_response_tokens)
        held = num_held * between
        yield Buffer(ACTIVATIONS, hidden + held, phase, phase, "likeliest ids")
        yield Buffer(LOSS_TILES, rank.loss.search_bytes(), phase, phase, "likeliest ids")
    row = PAYLOADS[objective.payload]
    if teacher.model.stage.is_last and layout.student != layout.teacher:
        made = payload_bytes(teacher.model, objective, teacher.response_tokens_of_all_rows)
        yield Buffer(row, made, phase, phase)


def _kept_bytes(rank: Rank) -> int:
    """The teacher's states of the rows and the share of the vocabulary that the student's loss has
    on this rank."""
    teacher, student = rank.teacher.model, rank.student
    at_student = replace(teacher, tensor=student.model.tensor)
    num_tokens = student.response_tokens_of_all_rows
    return payload_bytes(at_student, rank.draft.objective, num_tokens)
