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
from gkdplan.runplan.model import is_head_needed
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
    """The teacher's own, where it ends; where the student does the rows of the student's tensor
    rank, which are the same where both end and are cut alike."""
    teacher, student = rank.teacher.model, rank.student.model
    num_rows = teacher.vocab_rows if teacher.stage.is_last else 0
    is_same = teacher.stage.is_last and teacher.tensor == student.tensor
    if rank.has_loss and not is_same and is_head_needed(rank.draft.objective, rank.draft.data):
        num_rows += student.vocab_rows
    return num_rows * teacher.shape.hidden_size * teacher.dtype.num_bytes


def forward_buffers(rank: Rank) -> Iterator[Buffer]:
    """One micro-batch passes at a time; the payload is made where the teacher ends and kept where
    the student does. From a server only the payload comes.

    Where the layouts differ it then travels, micro-batch after micro-batch: what is made is
    released as what is kept grows.
    """
    if rank.has_teacher:
        yield from _made_here(rank)
    if rank.has_loss:
        first = Phase.STUDENT if rank.draft.layout.is_resharded else Phase.TEACHER
        row = PAYLOADS[rank.draft.objective.payload]
        yield Buffer(row, _kept_bytes(rank), first, Phase.STUDENT)


def _made_here(rank: Rank) -> Iterator[Buffer]:
    teacher, draft, phase = rank.teacher, rank.draft, Phase.TEACHER
    passing = activations.forward_bytes(teacher.model, teacher.batch)
    between = activations.boundary_bytes(teacher.model, teacher.batch)
    objective, layout = draft.objective, draft.layout
    num_held = num_held_in_forward(teacher.model.stage, draft.num_micro_batches(layout.teacher))
    row, moments = PAYLOADS[objective.payload], ["layers"]
    yield Buffer(ACTIVATIONS, passing + num_held * between, phase, phase, "layers")
    if objective.payload is Payload.TOP_K and teacher.model.stage.is_last:
        hidden = activations.response_bytes(teacher.model, teacher.num_response_tokens)
        moments.append("likeliest ids")
        yield Buffer(ACTIVATIONS, hidden + num_held * between, phase, phase, moments[-1])
        yield Buffer(LOSS_TILES, rank.loss.search_bytes(), phase, phase, moments[-1])
    if layout.is_resharded:
        made = _made_bytes(rank) if teacher.model.stage.is_last else 0
        for moment in moments:
            yield Buffer(row, made, phase, phase, moment)
        yield Buffer(row, _travelling_bytes(rank, made), phase, phase, "resharding")


def _made_bytes(rank: Rank) -> int:
    teacher = rank.teacher
    num_tokens = teacher.response_tokens_of_all_rows
    return payload_bytes(teacher.model, rank.draft.objective, num_tokens)


def _kept_bytes(rank: Rank) -> int:
    """The teacher's states of the rows and the share of the vocabulary that the student's loss has
    on this rank."""
    teacher, student = rank.teacher.model, rank.student
    at_student = replace(teacher, tensor=student.model.tensor)
    num_tokens = student.response_tokens_of_all_rows
    return payload_bytes(at_student, rank.draft.objective, num_tokens)


def _travelling_bytes(rank: Rank, made: int) -> int:
    """At the first micro-batch or at the last: all of one side, with one micro-batch of the other
    and the parts of it that are cut out to be sent, or put in when they are received."""
    layout, payload = rank.draft.layout, rank.draft.objective.payload
    kept = _kept_bytes(rank) if rank.has_loss else 0
    made_once = made // rank.draft.num_micro_batches(layout.teacher)
    kept_once = kept // rank.draft.num_micro_batches(layout.student)
    is_cut_by_rows = layout.teacher.context > 1 or layout.student.context > 1
    cut = payload is Payload.LOGITS and layout.teacher.tensor < layout.student.tensor
    joined = payload is Payload.LOGITS and layout.teacher.tensor > layout.student.tensor
    parts = made_once * (cut or is_cut_by_rows) + kept_once * (joined or is_cut_by_rows)
    return max(made + kept_once, kept + made_once) + parts
