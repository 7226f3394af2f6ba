"""What passes through memory in the teacher's forward, and its payload for the student's loss."""

from collections.abc import Iterator
from dataclasses import replace

from gkdplan.planner.memory import activations
from gkdplan.planner.memory.batch import boundary_bytes, gather_bytes
from gkdplan.planner.memory.buffer import ACTIVATIONS, LOSS_TILES, PAYLOADS, TEMPORARIES, Buffer
from gkdplan.planner.memory.held_graphs import held_in_next_forward_bytes
from gkdplan.planner.memory.in_flight import num_held_in_forward
from gkdplan.planner.memory.loss import FP64_BYTES
from gkdplan.planner.memory.payload import ID_BYTES, LOG_PROB_BYTES, kept_ids, payload_bytes
from gkdplan.planner.memory.rank import Rank
from gkdplan.planner.memory.teacher import MOMENT_OF_EMBEDDING, MOMENT_OF_IMAGES
from gkdplan.vocab import Payload, Phase

Moment = tuple[int, int]
"""Bytes of activations and of payloads."""


def forward_buffers(rank: Rank) -> Iterator[Buffer]:
    """One micro-batch passes at a time; the payload is made where the teacher ends and kept where
    the student does. From a server only the payload comes.

    Where the layouts differ it then travels, micro-batch after micro-batch: what is made is
    released as what is kept grows.
    """
    row = PAYLOADS[rank.draft.objective.payload]
    if rank.has_teacher:
        yield from _made_here(rank, row)
    if rank.has_loss:
        first = Phase.STUDENT if rank.has_teacher else Phase.TEACHER
        yield Buffer(row, _kept_bytes(rank), first, Phase.STUDENT)
        if rank.draft.models.teacher.server is not None:
            yield Buffer(TEMPORARIES, _answering_bytes(rank), Phase.TEACHER, Phase.TEACHER)


def _made_here(rank: Rank, row: str) -> Iterator[Buffer]:
    """The teacher's own micro-batches wait with what is made, until it travels."""
    phase, is_resharded = Phase.TEACHER, rank.draft.layout.is_resharded
    made = _made_bytes(rank) if rank.teacher.model.stage.is_last else 0
    for moment, (activation_bytes, payloads) in _moments(rank, made).items():
        yield Buffer(ACTIVATIONS, activation_bytes, phase, phase, moment)
        yield Buffer(row, payloads, phase, phase, moment)
        if is_resharded:
            yield Buffer(TEMPORARIES, rank.teacher.token_bytes, phase, phase, moment)
    if rank.teacher.model.stage.is_last and rank.draft.objective.payload is Payload.TOP_K:
        yield Buffer(LOSS_TILES, rank.loss.search_bytes(), phase, phase, "payload")
    if is_resharded:
        yield Buffer(row, _travelling_bytes(rank, made), phase, phase, "resharding")


def is_let_go_by_teacher(rank: Rank) -> bool:
    """Whether what the student's dispatchers hold goes in the teacher's forward, by the same
    modules: in the last layer of the first micro-batch. An interleaved stage's chunks let go one
    after the other, and are priced as if they never did."""
    is_base = rank.draft.models.teacher.is_students_base
    return is_base and not rank.student.model.stage.is_interleaved


def _moments(rank: Rank, made: int) -> dict[str, Moment]:
    """The last micro-batch in the layers, before its payload is there, and at the payload; on an
    interleaved last stage also in an earlier chunk, whose input the chunk's next output keeps; and
    the first micro-batch where layers before it still hold graphs."""
    model, batch, stage = rank.teacher.model, rank.teacher.batch, rank.teacher.model.stage
    num_micro_batches = rank.draft.num_micro_batches(rank.draft.layout.teacher)
    boundary = boundary_bytes(model, batch)
    between = num_held_in_forward(stage, num_micro_batches) * boundary
    passing = between + activations.forward_bytes(model, batch)
    made_once = made // num_micro_batches
    moments = {"layers": (passing + rank.teacher.said_bytes, made - made_once)}
    if rank.teacher.seen_of_row or (stage.is_first and rank.draft.models.teacher.stream):
        moments[MOMENT_OF_EMBEDDING] = between + rank.teacher.joining_bytes, made - made_once
    if is_let_go_by_teacher(rank):
        moments |= {name: (held, 0) for name, held in _first_rows(rank).items()}
    if rank.teacher.seen_of_row:
        moments[MOMENT_OF_IMAGES] = between + rank.teacher.tower_bytes, made - made_once
    if stage.is_last:
        moments["payload"] = between + _last_bytes(rank), made
        if stage.is_interleaved and num_micro_batches > stage.num_stages:
            before = made - stage.num_stages * made_once
            moments["earlier chunk"] = passing + boundary, before
    return moments


def _first_rows(rank: Rank) -> dict[str, int]:
    """The first micro-batch in the first layer and in the one before the last with experts, beside
    what later layers hold. Of inputs the first layer has its own, which is the chunk's. Attention
    comes before what its own layer holds is let go."""
    student = rank.student
    model, batch = student.model, student.batch
    passing = activations.forward_bytes(model, batch)
    (num_layers,) = model.stage.chunk_layers
    _, last = model.last_layers[0]
    at_layer = {}
    for num_passed in {1, last} - {0, num_layers}:
        held = held_in_next_forward_bytes(model, batch, num_passed)
        in_first = boundary_bytes(model, batch) if num_passed == 1 else 0
        at_layer[f"first rows, layer {num_passed}"] = passing - in_first + held
    if in_attention := activations.attention_forward_bytes(model, batch):
        held = held_in_next_forward_bytes(model, batch, last)
        at_layer[f"first rows, attention of layer {last}"] = in_attention + held
    return at_layer


def _last_bytes(rank: Rank) -> int:
    """The final hidden states from which a payload is made: of all tokens, as the layers leave
    them and gathered, or of the response tokens, which are multiplied by the head."""
    model, batch = rank.teacher.model, rank.teacher.batch
    if rank.draft.objective.payload is not Payload.HIDDEN:
        return activations.response_bytes(model, rank.teacher.num_response_tokens)
    return boundary_bytes(model, batch) + gather_bytes(model, batch)


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


def _answering_bytes(rank: Rank) -> int:
    """Beside what is kept of a server's answers: those of whole rows, whatever the rank's share of
    them, while what their ids leave is summed up in float64, as log-probabilities and as
    probabilities (runtime/loss/top_k.py, with_tail)."""
    draft = rank.draft
    num_ids = draft.rows_per_rank * draft.sampling.max_completion_length
    num_ids *= kept_ids(draft.objective)
    answered = num_ids * (ID_BYTES + LOG_PROB_BYTES + 2 * FP64_BYTES)
    return answered - _kept_bytes(rank)


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
