"""A row of the ledger before it is placed, and the names of all rows."""

from dataclasses import dataclass

from gkdplan.vocab import Payload, Phase

STUDENT_PARAMS = "student params"
STUDENT_GRADS = "student grads"
STUDENT_STATE = "student main + Adam"
TEACHER_BODY = "teacher body"
TEACHER_HEAD = "teacher head"
TEACHER_AVERAGE = "teacher average"
ENGINE_WEIGHTS = "vllm weights"
KV_CACHE = "kv cache"
REFIT_BUFFER = "refit buffer"
ACTIVATIONS = "activations"
PAYLOADS = {payload: f"payload ({payload})" for payload in Payload}
LOSS_TILES = "loss tiles"
TEMPORARIES = "temporaries"
CONTEXT = "overhead (context)"
COMMUNICATORS = "overhead (nccl)"
GRAPHS = "overhead (vllm graphs)"
OVERHEADS = (CONTEXT, COMMUNICATORS, GRAPHS)
"""Outside torch's allocator."""
REPORT_ORDER = (
    STUDENT_PARAMS,
    STUDENT_GRADS,
    STUDENT_STATE,
    TEACHER_BODY,
    TEACHER_HEAD,
    TEACHER_AVERAGE,
    ENGINE_WEIGHTS,
    KV_CACHE,
    REFIT_BUFFER,
    ACTIVATIONS,
    *PAYLOADS.values(),
    LOSS_TILES,
    TEMPORARIES,
    *OVERHEADS,
)
FIRST, LAST = Phase.REFIT, Phase.CHECKPOINT


@dataclass(frozen=True, slots=True)
class Buffer:
    """A row of the ledger: bytes on one rank from phase `first` to phase `last`.

    Buffers with different moments in one phase never live together; without a moment a buffer
    lives through the whole phase.
    """

    name: str
    num_bytes: int
    first: Phase
    last: Phase
    moment: str | None = None
