"""The teacher's weights."""

from collections.abc import Iterator

from gkdplan.planner.memory.buffer import (
    FIRST,
    LAST,
    TEACHER_AVERAGE,
    TEACHER_BODY,
    TEACHER_HEAD,
    Buffer,
)
from gkdplan.planner.memory.parameters import (
    EMBEDDING,
    OUTPUT_LAYER,
    largest_elements,
    num_elements,
)
from gkdplan.planner.memory.rank import Rank
from gkdplan.runplan.model import is_head_needed
from gkdplan.vocab import Dtype, Phase, Tier

MOMENTS_OF_LAYERS = ("layers", "earlier chunk")
"""Those of the teacher's phase in which a layer runs: planner/memory/teacher_forward.py."""


def weight_buffers(rank: Rank) -> Iterator[Buffer]:
    """The teacher's weights but its output head, and the head.

    The loss needs the head too: it lies where the student ends, and there the rank holds as much of
    it as of the student's own. Behind a server it has none here, nor where it
    is the student without adapters. A streamed body is there only
    while layers run.
    """
    if not rank.has_teacher or rank.draft.models.teacher.is_students_base:
        return
    if rank.draft.models.teacher.stream:
        phase, visiting = Phase.TEACHER, visiting_bytes(rank)
        yield from (Buffer(TEACHER_BODY, visiting, phase, phase, m) for m in MOMENTS_OF_LAYERS)
    else:
        yield Buffer(TEACHER_BODY, body_bytes(rank), FIRST, LAST)
    yield Buffer(TEACHER_HEAD, head_bytes(rank), FIRST, LAST)
    if rank.draft.models.teacher.offload is Tier.DEVICE:
        yield Buffer(TEACHER_AVERAGE, average_bytes(rank), FIRST, LAST)


def body_bytes(rank: Rank) -> int:
    teacher = rank.teacher.model
    own_head = teacher.head_elements if teacher.stage.is_last else 0
    elements = sum(map(num_elements, teacher.chunks)) - own_head
    return elements * teacher.dtype.num_bytes


def average_bytes(rank: Rank) -> int:
    """Of a teacher that is the student's average, in float32: of the main weights that this rank
    updates, beside narrower weights of the teacher; float32 ones are the average themselves."""
    teacher = rank.draft.models.teacher
    if teacher.ema_decay is None or teacher.dtype is Dtype.FP32:
        return 0
    return rank.state.owned_elements * Dtype.FP32.num_bytes


def published_bytes(rank: Rank) -> int:
    """The parameter of an average on the host that is on the device at one time, where nccl gathers
    its pieces from the ranks that update them."""
    draft, degrees = rank.draft, rank.draft.layout.student
    teacher = draft.models.teacher
    is_divided = draft.optimizer.distributed and degrees.data * degrees.context > 1
    is_brought = teacher.offload is Tier.HOST and draft.layout.backend == "nccl"
    if teacher.ema_decay is None or not (is_divided and is_brought):
        return 0
    largest = max(map(largest_elements, rank.student.model.trained_chunks))
    return largest * teacher.dtype.num_bytes


def visiting_bytes(rank: Rank) -> int:
    """Of a streamed teacher, on the device at one time at most: what runs and what runs next, of
    embedding, layers and last norm (runtime/layer_stream.py)."""
    teacher = rank.teacher.model
    largest = max(
        (sum(pair) for chunk in _units(rank) for pair in zip(chunk, [*chunk[1:], 0], strict=True)),
        default=0,
    )
    return largest * teacher.dtype.num_bytes


def _units(rank: Rank) -> Iterator[list[int]]:
    """Elements of each unit of each chunk; the head is none, nor an embedding that is the head."""
    teacher = rank.teacher.model
    for chunk in teacher.chunks:
        names = {parameter.name for parameter in chunk}
        head = OUTPUT_LAYER if OUTPUT_LAYER in names else EMBEDDING
        is_last = any(name.startswith("decoder.final_layernorm") for name in names)
        units: dict[str, int] = {}
        for parameter in chunk:
            if not (is_last and parameter.name == head):
                unit = ".".join(parameter.name.split(".")[:3])
                units[unit] = units.get(unit, 0) + parameter.num_elements
        yield list(units.values())


def head_bytes(rank: Rank) -> int:
    """The teacher's own, where it ends; where the student does the rows of the student's tensor
    rank, which are the same where both end and are cut alike."""
    teacher, student = rank.teacher.model, rank.student.model
    num_rows = teacher.vocab_rows if teacher.stage.is_last else 0
    is_same = teacher.stage.is_last and teacher.tensor == student.tensor
    if rank.has_loss and not is_same and is_head_needed(rank.draft.objective, rank.draft.data):
        num_rows += student.vocab_rows
    return num_rows * teacher.shape.hidden_size * teacher.dtype.num_bytes
