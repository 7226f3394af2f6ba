"""Bytes of what the teacher leaves for the student's loss, all micro-batches of a step together."""

from gkdplan.planner.memory.model import RankModel
from gkdplan.runplan.model import Objective
from gkdplan.vocab import Payload

ID_BYTES = 4
"""An int32."""
LOG_PROB_BYTES = 4
"""A float32."""


def payload_width(teacher: RankModel, objective: Objective) -> int:
    """Elements of one response token: of the likeliest ids their number."""
    match objective.payload:
        case Payload.HIDDEN:
            return teacher.shape.hidden_size
        case Payload.LOGITS:
            return teacher.vocab_rows
        case Payload.TOP_K:
            return kept_ids(objective)


def payload_bytes(teacher: RankModel, objective: Objective, num_tokens: int) -> int:
    """`num_tokens` response tokens of the rank's rows, in the teacher's dtype; of the likeliest ids
    each with its log-probability, and the tail's beside them."""
    width = payload_width(teacher, objective)
    if objective.payload is Payload.TOP_K:
        return num_tokens * (width * (ID_BYTES + LOG_PROB_BYTES) + LOG_PROB_BYTES)
    return num_tokens * width * teacher.dtype.num_bytes


def kept_ids(objective: Objective) -> int:
    """K of a payload of the likeliest ids."""
    assert objective.top_k is not None, "the vocabulary of plans asks for it: GK006"
    return objective.top_k
