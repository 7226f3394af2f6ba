"""The teacher's weights."""

from collections.abc import Iterator

from gkdplan.planner.memory.buffer import FIRST, LAST, TEACHER_BODY, TEACHER_HEAD, Buffer
from gkdplan.planner.memory.parameters import num_elements
from gkdplan.planner.memory.rank import Rank
from gkdplan.runplan.model import is_head_needed


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
