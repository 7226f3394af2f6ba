"""Bytes of what the teacher leaves for the student's loss, all micro-batches of a step together."""

from gkdplan.planner.memory.model import RankModel
from gkdplan.vocab import Payload


def payload_width(teacher: RankModel, payload: Payload) -> int:
    """Elements of one response token."""
    return teacher.vocab_rows if payload is Payload.LOGITS else teacher.shape.hidden_size


def payload_bytes(teacher: RankModel, payload: Payload, num_tokens: int) -> int:
    """`num_tokens` response tokens of the rank's rows, in the teacher's dtype."""
    return num_tokens * payload_width(teacher, payload) * teacher.dtype.num_bytes
