"""The teacher's weights."""

from collections.abc import Iterator, Sequence

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
    VISION,
    Parameter,
    largest_elements,
)
from gkdplan.planner.memory.rank import Rank
from gkdplan.runplan.model import is_head_needed
from gkdplan.vocab import Dtype, Phase, Tier

MOMENTS_OF_LAYERS = ("layers", "earlier chunk")
"""Those of the teacher's phase in which a layer runs: planner/memory/teacher_forward.py."""
MOMENT_OF_EMBEDDING, MOMENT_OF_IMAGES = "embedding", "images"
"""Those before the first layer: of the embedding, and where a tower looks."""
EMBEDDING_UNIT, TOWER_UNIT = "embedding", "vision"
"""What comes and goes as one, by the names of its parameters; others are layers and the last norm.
"""


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
        phase = Phase.TEACHER
        for moment, visiting in _visitors(rank).items():
            yield Buffer(TEACHER_BODY, visiting, phase, phase, moment)
    else:
        yield Buffer(TEACHER_BODY, body_bytes(rank), FIRST, LAST)
    yield Buffer(TEACHER_HEAD, head_bytes(rank), FIRST, LAST)
    if rank.draft.models.teacher.offload is Tier.DEVICE:
        yield Buffer(TEACHER_AVERAGE, average_bytes(rank), FIRST, LAST)


def body_bytes(rank: Rank) -> int:
    teacher = rank.teacher.model
    own_head = teacher.head_elements if teacher.stage.is_last else 0
    parameters = (parameter for chunk in teacher.chunks for parameter in chunk)
    held = sum(parameter.num_bytes(teacher.dtype) for parameter in parameters)
    return held - own_head * teacher.dtype.num_bytes


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
    """Of a streamed teacher, on the device at one time at most."""
    return max(_visitors(rank).values())


def _visitors(rank: Rank) -> dict[str, int]:
    """Of a streamed teacher what is on the device at each moment: what runs and what runs next, of
    tower with projector, embedding, layers and last norm (runtime/layer_stream.py)."""
    moments = {EMBEDDING_UNIT: (MOMENT_OF_EMBEDDING,), TOWER_UNIT: ()}
    if rank.teacher.seen_of_row:
        moments[TOWER_UNIT] = (MOMENT_OF_IMAGES,)
    found = dict.fromkeys(MOMENTS_OF_LAYERS, 0)
    for chunk in rank.teacher.model.chunks:
        units = [*_units(chunk, rank.teacher.model.dtype).items()]
        for (name, size), (_, next_size) in zip(units, [*units[1:], ("", 0)], strict=True):
            for moment in moments.get(name, MOMENTS_OF_LAYERS):
                found[moment] = max(found.get(moment, 0), size + next_size)
    return found


def _units(chunk: Sequence[Parameter], dtype: Dtype) -> dict[str, int]:
    """Bytes of each unit of a chunk, in the order in which they run; the head is none, and an
    embedding that is the head has none."""
    head = _head_of(chunk)
    units = {TOWER_UNIT: 0} if any(p.name.startswith(VISION) for p in chunk) else {}
    for parameter in chunk:
        if parameter.name != OUTPUT_LAYER:
            size = 0 if parameter.name == head else parameter.num_bytes(dtype)
            unit = _unit_of(parameter.name)
            units[unit] = units.get(unit, 0) + size
    return units


def _unit_of(name: str) -> str:
    first, *others = name.split(".")
    return ".".join((first, *others[:2])) if first == "decoder" else first


def _head_of(chunk: Sequence[Parameter]) -> str | None:
    """The name of the output head, which is tied to the embedding where there is no other; None
    where the chunk does not end the model."""
    names = {parameter.name for parameter in chunk}
    if not any(name.startswith("decoder.final_layernorm") for name in names):
        return None
    return OUTPUT_LAYER if OUTPUT_LAYER in names else EMBEDDING


def head_bytes(rank: Rank) -> int:
    """The teacher's own, where it ends; where the student does the rows of the student's tensor
    rank, which are the same where both end and are cut alike."""
    teacher, student = rank.teacher.model, rank.student.model
    num_rows = teacher.vocab_rows if teacher.stage.is_last else 0
    is_same = teacher.stage.is_last and teacher.tensor == student.tensor
    if rank.has_loss and not is_same and is_head_needed(rank.draft.objective, rank.draft.data):
        num_rows += student.vocab_rows
    return num_rows * teacher.shape.hidden_size * teacher.dtype.num_bytes
