"""Every buffer of a step on one rank, priced; where it lies is for the schedule to say."""

from collections.abc import Iterator
from dataclasses import dataclass

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft
from gkdplan.planner.memory import activations, generation
from gkdplan.planner.memory.activations import Batch
from gkdplan.planner.memory.loss import Loss
from gkdplan.planner.memory.model import RankModel, rank_model
from gkdplan.planner.memory.optimizer import NUM_UPDATE_COPIES, training_state
from gkdplan.planner.memory.parameters import num_elements
from gkdplan.planner.memory.payload import payload_bytes
from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.steps import Draw
from gkdplan.vocab import Dtype, Payload, Phase, Role, Source

STUDENT_PARAMS = "student params"
STUDENT_GRADS = "student grads"
STUDENT_STATE = "student main + Adam"
TEACHER_BODY = "teacher body"
TEACHER_HEAD = "teacher head"
KV_CACHE = "kv cache"
ACTIVATIONS = "activations"
PAYLOADS = {payload: f"payload ({payload})" for payload in Payload}
LOSS_TILES = "loss tiles"
TEMPORARIES = "temporaries"
OVERHEAD = "overhead"
_REPORT_ORDER = (
    STUDENT_PARAMS,
    STUDENT_GRADS,
    STUDENT_STATE,
    TEACHER_BODY,
    TEACHER_HEAD,
    KV_CACHE,
    ACTIVATIONS,
    *PAYLOADS.values(),
    LOSS_TILES,
    TEMPORARIES,
    OVERHEAD,
)
FIRST, LAST = Phase.GENERATE, Phase.CHECKPOINT


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


def price_buffers(draft: Draft, device: Device) -> tuple[Buffer, ...]:
    """All buffers that hold bytes, in the order of the report."""
    buffers = (buffer for buffer in _buffers(draft, device) if buffer.num_bytes > 0)
    return tuple(sorted(buffers, key=lambda buffer: _REPORT_ORDER.index(buffer.name)))


def phases_of(draft: Draft) -> tuple[Phase, ...]:
    """The phases that a step of this plan can have; the engine shares the student's weights, so
    nothing is refitted."""
    sampled = (Phase.GENERATE,) if sampling_roles(draft) else ()
    return (*sampled, Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER, Phase.CHECKPOINT)


def sampling_roles(draft: Draft) -> tuple[tuple[Source, Role], ...]:
    """Who samples responses in some step, with the source that such a step has."""
    objective = draft.objective
    shares = share_of_sources(Draw(draft.training.seed, objective.lmbda, objective.seq_kd))
    roles = ((Source.STUDENT, Role.STUDENT), (Source.TEACHER, Role.TEACHER))
    return tuple((source, role) for source, role in roles if shares[source] > 0)


def _buffers(draft: Draft, device: Device) -> Iterator[Buffer]:
    backend = draft.layout.backend
    student = rank_model(draft.models.student, draft.layout.student, backend)
    teacher = rank_model(draft.models.teacher, draft.layout.teacher, backend)
    yield from _resident(draft, student, teacher)
    for _, role in sampling_roles(draft):
        yield from _sampling(draft, role, student if role is Role.STUDENT else teacher)
    yield from _teacher_forward(draft, teacher)
    yield from _student_step(draft, student, teacher)
    yield Buffer(OVERHEAD, device.overhead_bytes, FIRST, LAST)


def _resident(draft: Draft, student: RankModel, teacher: RankModel) -> Iterator[Buffer]:
    """What is there in every phase, if the schedule does not move it."""
    state = training_state(
        student.parameters,
        student.dtype,
        draft.layout.student.data,
        distributed=draft.optimizer.distributed,
    )
    head = teacher.head_elements * teacher.dtype.num_bytes
    whole = num_elements(teacher.parameters) * teacher.dtype.num_bytes
    yield Buffer(STUDENT_PARAMS, state.parameter_bytes, FIRST, LAST)
    yield Buffer(STUDENT_GRADS, state.gradient_bytes, FIRST, LAST)
    yield Buffer(STUDENT_STATE, state.optimizer_bytes, FIRST, LAST)
    yield Buffer(TEMPORARIES, _gather_bytes(draft, student, teacher), FIRST, LAST)
    update = NUM_UPDATE_COPIES[draft.layout.backend] * state.largest_bytes
    yield Buffer(TEMPORARIES, update, Phase.OPTIMIZER, Phase.OPTIMIZER)
    yield Buffer(TEACHER_BODY, whole - head, FIRST, LAST)
    yield Buffer(TEACHER_HEAD, head, FIRST, LAST)


def _gather_bytes(draft: Draft, student: RankModel, teacher: RankModel) -> int:
    """Megatron keeps one gather buffer for each dtype, as large as its largest use."""
    batch = _micro_batch(draft)
    largest: dict[Dtype, int] = {}
    for model in (student, teacher):
        num_bytes = activations.gather_bytes(model, batch)
        largest[model.dtype] = max(num_bytes, largest.get(model.dtype, 0))
    return sum(largest.values())


def _sampling(draft: Draft, role: Role, model: RankModel) -> Iterator[Buffer]:
    rows, prompt = draft.rows_per_rank, draft.data.max_length
    tokens = prompt + draft.sampling.max_completion_length
    moment = f"{role} samples"
    phase = Phase.GENERATE
    yield Buffer(KV_CACHE, generation.cache_bytes(model, rows, tokens), phase, phase, moment)
    yield Buffer(ACTIVATIONS, generation.sampling_bytes(model, rows, prompt), phase, phase, moment)


def _teacher_forward(draft: Draft, teacher: RankModel) -> Iterator[Buffer]:
    phase = Phase.TEACHER
    payload = draft.objective.payload
    num_tokens = draft.rows_per_rank * draft.sampling.max_completion_length
    kept = payload_bytes(teacher, payload, num_tokens)
    passing = activations.forward_bytes(teacher, _micro_batch(draft))
    yield Buffer(ACTIVATIONS, passing, phase, phase)
    yield Buffer(PAYLOADS[payload], kept, phase, Phase.STUDENT)


def _student_step(draft: Draft, student: RankModel, teacher: RankModel) -> Iterator[Buffer]:
    """The moments of one micro-batch that can be its peak: the loss, the backward of the last
    layer, and that of the embedding, whose gradient is as large as the matrix."""
    batch = _micro_batch(draft)
    loss = Loss(
        student,
        teacher,
        draft.objective.payload,
        draft.layout.backend,
        draft.objective.chunk_tokens,
        batch.rows * draft.sampling.max_completion_length,
        draft.models.vocab_size,
    )
    saved = activations.saved_bytes(student, batch)
    hidden = activations.hidden_bytes(student, batch, loss.num_tokens)
    embedding = student.head_elements * student.dtype.num_bytes
    moments = {
        "loss": (saved + hidden, loss.gradient_bytes() + loss.tile_bytes()),
        "backward": (saved + activations.backward_bytes(student, batch), loss.kept_bytes()),
        "embedding": (embedding, loss.kept_bytes()),
    }
    for moment, (activation_bytes, loss_bytes) in moments.items():
        yield Buffer(ACTIVATIONS, activation_bytes, Phase.STUDENT, Phase.STUDENT, moment)
        yield Buffer(LOSS_TILES, loss_bytes, Phase.STUDENT, Phase.STUDENT, moment)


def _micro_batch(draft: Draft) -> Batch:
    return Batch(draft.batch.micro_rows, draft.sequence_tokens)
