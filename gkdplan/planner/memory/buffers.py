"""Every buffer of a step on one rank, priced; where it lies is for the schedule to say."""

from collections.abc import Iterator
from dataclasses import replace

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft, sampling_roles
from gkdplan.planner.memory import activations, generation
from gkdplan.planner.memory.activations import Batch
from gkdplan.planner.memory.buffer import (
    ACTIVATIONS,
    FIRST,
    KV_CACHE,
    LAST,
    LOSS_TILES,
    OVERHEAD,
    PAYLOADS,
    REPORT_ORDER,
    STUDENT_GRADS,
    STUDENT_PARAMS,
    STUDENT_STATE,
    TEACHER_BODY,
    TEACHER_HEAD,
    TEMPORARIES,
    Buffer,
)
from gkdplan.planner.memory.checkpoint import state_file_bytes, student_files_bytes
from gkdplan.planner.memory.loss import Loss
from gkdplan.planner.memory.model import RankModel, rank_model
from gkdplan.planner.memory.optimizer import NUM_UPDATE_COPIES, TrainingState, training_state
from gkdplan.planner.memory.parameters import num_elements
from gkdplan.planner.memory.payload import payload_bytes
from gkdplan.vocab import Dtype, Payload, Phase, Role, Tier


def price_buffers(draft: Draft, device: Device) -> tuple[Buffer, ...]:
    """All buffers that hold bytes, in the order of the report."""
    buffers = (buffer for buffer in _buffers(draft, device) if buffer.num_bytes > 0)
    return tuple(sorted(buffers, key=lambda buffer: REPORT_ORDER.index(buffer.name)))


def phases_of(draft: Draft) -> tuple[Phase, ...]:
    """The phases that a step of this plan can have; the engine shares the student's weights, so
    nothing is refitted."""
    sampled = (Phase.GENERATE,) if sampling_roles(draft) else ()
    return (*sampled, Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER, Phase.CHECKPOINT)


def _buffers(draft: Draft, device: Device) -> Iterator[Buffer]:
    backend = draft.layout.backend
    student = rank_model(draft.models.student, draft.layout.student, backend)
    teacher = rank_model(draft.models.teacher, draft.layout.teacher, backend)
    state = training_state(
        student.parameters,
        student.dtype,
        draft.layout.student.data,
        distributed=draft.optimizer.distributed,
    )
    yield from _resident(draft, student, teacher, state)
    for _, role in sampling_roles(draft):
        yield from _sampling(draft, role, student if role is Role.STUDENT else teacher)
    yield from _teacher_forward(draft, teacher)
    loss = _loss(draft, student, teacher)
    yield from _student_step(draft, student, loss)
    yield from _gradient_reduction(draft, state)
    yield from _saving(draft, student, state)
    if draft.data.eval:
        yield from _evaluation(draft, student, teacher, loss)
    yield Buffer(OVERHEAD, device.overhead_bytes, FIRST, LAST)


def _resident(
    draft: Draft, student: RankModel, teacher: RankModel, state: TrainingState
) -> Iterator[Buffer]:
    """What is there in every phase, if the schedule does not move it."""
    body, head = _teacher_bytes(teacher)
    yield Buffer(STUDENT_PARAMS, state.parameter_bytes, FIRST, LAST)
    yield Buffer(STUDENT_GRADS, state.gradient_bytes, FIRST, LAST)
    yield Buffer(STUDENT_STATE, state.optimizer_bytes, FIRST, LAST)
    yield Buffer(TEMPORARIES, _gather_bytes(draft, student, teacher), FIRST, LAST)
    update = NUM_UPDATE_COPIES[draft.layout.backend] * state.largest_bytes
    yield Buffer(TEMPORARIES, update, Phase.OPTIMIZER, Phase.OPTIMIZER)
    yield Buffer(TEACHER_BODY, body, FIRST, LAST)
    yield Buffer(TEACHER_HEAD, head, FIRST, LAST)


def _teacher_bytes(teacher: RankModel) -> tuple[int, int]:
    """The teacher's weights but its output head, and the head, which the loss needs too."""
    head = teacher.head_elements
    body = num_elements(teacher.parameters) - head
    return body * teacher.dtype.num_bytes, head * teacher.dtype.num_bytes


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


def _loss(draft: Draft, student: RankModel, teacher: RankModel) -> Loss:
    return Loss(
        student,
        teacher,
        draft.objective.payload,
        draft.layout.backend,
        draft.objective.chunk_tokens,
        draft.batch.micro_rows * draft.sampling.max_completion_length,
        draft.models.vocab_size,
    )


def _student_step(draft: Draft, student: RankModel, loss: Loss) -> Iterator[Buffer]:
    """The moments of one micro-batch that can be its peak: the loss, the backward of the last
    layer, and that of the embedding, whose gradient is as large as the matrix."""
    batch = _micro_batch(draft)
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


def _gradient_reduction(draft: Draft, state: TrainingState) -> Iterator[Buffer]:
    """With a distributed optimizer gradients are reduced and scattered; gloo works on a copy."""
    if draft.optimizer.distributed and draft.layout.backend == "gloo":
        phase, moment = Phase.STUDENT, "reduction"
        yield Buffer(TEMPORARIES, state.gradient_bytes, phase, phase, moment)


def _saving(draft: Draft, student: RankModel, state: TrainingState) -> Iterator[Buffer]:
    phase = Phase.CHECKPOINT
    files = student_files_bytes(student, draft.layout.backend)
    copies = state_file_bytes(student, state, distributed=draft.optimizer.distributed)
    yield Buffer(TEMPORARIES, files, phase, phase, "student's files")
    yield Buffer(TEMPORARIES, copies, phase, phase, "state")


def _evaluation(
    draft: Draft, student: RankModel, teacher: RankModel, loss: Loss
) -> Iterator[Buffer]:
    """Held-out rows go through both models after the optimizer's step, the teacher's body being
    fetched for it where it is offloaded."""
    phase, moment = Phase.CHECKPOINT, "evaluation"
    batch = _micro_batch(draft)
    passing = max(activations.forward_bytes(model, batch) for model in (student, teacher))
    hidden = activations.hidden_bytes(student, batch, loss.num_tokens)
    if draft.models.teacher.offload is Tier.HOST:
        body, _ = _teacher_bytes(teacher)
        yield Buffer(TEACHER_BODY, body, phase, phase, moment)
    yield Buffer(ACTIVATIONS, passing + hidden, phase, phase, moment)
    from_hidden_states = replace(loss, payload=Payload.HIDDEN)
    yield Buffer(LOSS_TILES, from_hidden_states.tile_bytes(), phase, phase, moment)


def _micro_batch(draft: Draft) -> Batch:
    return Batch(draft.batch.micro_rows, draft.sequence_tokens)
