"""Every buffer of a step on the ranks of a class, priced: where it lies is for the schedule."""

from collections.abc import Iterator

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft, engine_of, sampling_roles
from gkdplan.planner.memory import activations, generation
from gkdplan.planner.memory.batch import Batch, gather_bytes
from gkdplan.planner.memory.buffer import (
    ACTIVATIONS,
    FIRST,
    KV_CACHE,
    LAST,
    REPORT_ORDER,
    STUDENT_GRADS,
    STUDENT_PARAMS,
    STUDENT_STATE,
    TEMPORARIES,
    Buffer,
)
from gkdplan.planner.memory.checkpoint import (
    average_file_bytes,
    state_file_bytes,
    student_files_bytes,
)
from gkdplan.planner.memory.evaluation import evaluation_buffers
from gkdplan.planner.memory.held_graphs import held_bytes
from gkdplan.planner.memory.overhead import overhead_buffers
from gkdplan.planner.memory.rank import Rank, Share, rank_of_class
from gkdplan.planner.memory.student import student_buffers
from gkdplan.planner.memory.teacher import published_bytes, weight_buffers
from gkdplan.planner.memory.teacher_forward import forward_buffers, is_let_go_by_teacher
from gkdplan.planner.memory.vision import looking_bytes, pixel_bytes, said_bytes
from gkdplan.planner.memory.vllm import vllm_buffers
from gkdplan.runplan.layout import RankClass
from gkdplan.vocab import Engine, Kernels, Phase, Role


def price_buffers(draft: Draft, ranks: RankClass, device: Device) -> tuple[Buffer, ...]:
    """All buffers that hold bytes on a rank of the class, in the order of the report."""
    rank = rank_of_class(draft, ranks)
    priced = (*_buffers(rank), *overhead_buffers(draft, device))
    buffers = (buffer for buffer in priced if buffer.num_bytes > 0)
    return tuple(sorted(buffers, key=lambda buffer: REPORT_ORDER.index(buffer.name)))


def phases_of(draft: Draft) -> tuple[Phase, ...]:
    """The phases that a step of this plan can have; Megatron samples from the weights that it
    trains, so that only vllm is refitted."""
    refitted = (Phase.REFIT,) if draft.sampling.refit_bucket_bytes else ()
    sampled = (Phase.GENERATE,) if sampling_roles(draft) else ()
    return (*refitted, *sampled, Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER, Phase.CHECKPOINT)


def _buffers(rank: Rank) -> Iterator[Buffer]:
    yield from _resident(rank)
    yield from weight_buffers(rank)
    yield from vllm_buffers(rank)
    for _, role in sampling_roles(rank.draft):
        if engine_of(rank.draft, role) is Engine.MEGATRON:
            yield from _sampling(rank, role)
    yield from forward_buffers(rank)
    yield from student_buffers(rank)
    yield from _saving(rank)
    if rank.draft.data.eval:
        yield from evaluation_buffers(rank)
        yield from _answering(rank)


def _resident(rank: Rank) -> Iterator[Buffer]:
    """What is there in every phase, if the schedule does not move it."""
    state = rank.state
    yield Buffer(STUDENT_PARAMS, state.parameter_bytes, FIRST, LAST)
    yield Buffer(STUDENT_GRADS, state.gradient_bytes, FIRST, LAST)
    yield Buffer(STUDENT_STATE, state.optimizer_bytes, FIRST, LAST)
    kept = _gather_bytes(rank) + _angle_bytes(rank) + _routing_bytes(rank)
    yield Buffer(TEMPORARIES, kept, FIRST, LAST)
    yield Buffer(TEMPORARIES, rank.student.token_bytes, Phase.TEACHER, LAST)
    yield from _held(rank)
    updating = max(_update_bytes(rank), published_bytes(rank))
    yield Buffer(TEMPORARIES, updating, Phase.OPTIMIZER, Phase.OPTIMIZER)


def _held(rank: Rank) -> Iterator[Buffer]:
    """From a backward to the next forward: the teacher's first one, where it is the student's
    base (planner/memory/teacher_forward.py)."""
    held = held_bytes(rank.student.model, rank.student.batch)
    last = Phase.GENERATE if is_let_go_by_teacher(rank) else Phase.TEACHER
    yield Buffer(TEMPORARIES, held, FIRST, last)
    yield Buffer(TEMPORARIES, held, Phase.OPTIMIZER, LAST)


def _update_bytes(rank: Rank) -> int:
    """What an update makes: nothing with Transformer Engine's kernels."""
    layout = rank.draft.layout
    if layout.kernels is Kernels.TRANSFORMER_ENGINE:
        return 0
    if layout.backend == "gloo":
        return rank.state.update_bytes
    return rank.state.clip_bytes if rank.draft.optimizer.clip_grad else 0


def _gather_bytes(rank: Rank) -> int:
    """The buffer of a trained layer's gathered input; frozen layers do not use it
    (megatron/core/tensor_parallel/layers.py, linear_with_frozen_weight)."""
    student = rank.student
    if not student.model.trains_base:
        return 0
    return gather_bytes(student.model, student.batch)


def _angle_bytes(rank: Rank) -> int:
    """Each chunk of layers, a module of its own, has its own cache."""
    return sum(
        share.model.stage.num_chunks * activations.angle_bytes(share.model, share.batch)
        for share in rank.shares
    )


def _routing_bytes(rank: Rank) -> int:
    return sum(activations.routing_bytes(share.model, share.batch) for share in rank.shares)


def _sampling(rank: Rank, role: Role) -> Iterator[Buffer]:
    share = rank.share(role)
    yield from _sampled(rank, share, share.rows, Phase.GENERATE, f"{role} samples")


def _answering(rank: Rank) -> Iterator[Buffer]:
    """The student writes to held-out prompts, as many on every rank of the data axis."""
    num_rows = -(-rank.draft.training.eval_samples // rank.draft.layout.student.data)
    share = rank.share(Role.STUDENT)
    yield from _sampled(rank, share, num_rows, Phase.CHECKPOINT, "held-out prompts")


def _sampled(
    rank: Rank, share: Share, num_rows: int, phase: Phase, moment: str
) -> Iterator[Buffer]:
    """What Megatron's own modules need to sample to so many prompts at one time."""
    if num_rows == 0:
        return
    prompt = rank.draft.data.max_length
    tokens = prompt + rank.draft.sampling.max_completion_length
    cache = generation.cache_bytes(share.model, num_rows, tokens)
    passing = generation.sampling_bytes(share.model, num_rows, prompt)
    if share.seen_of_row:
        passing = _seeing_bytes(share, num_rows, prompt, passing)
    yield Buffer(KV_CACHE, cache, phase, phase, moment)
    yield Buffer(ACTIVATIONS, passing, phase, phase, moment)


def _seeing_bytes(share: Share, num_rows: int, prompt: int, passing: int) -> int:
    """With the pixels of one prompts' forward, whose images are looked at first."""
    rows = generation.prompts_at_once(num_rows, prompt)
    num_seen = rows * share.seen_of_row
    looking = looking_bytes(share.model, Batch(rows, prompt), num_seen)
    passing += said_bytes(share.model, num_seen)
    return pixel_bytes(share.model.shape, num_seen) + max(passing, looking)


def _saving(rank: Rank) -> Iterator[Buffer]:
    phase, student, draft = Phase.CHECKPOINT, rank.student.model, rank.draft
    files = student_files_bytes(draft, writes=student.stage.is_first)
    copies = state_file_bytes(draft, student, rank.state)
    copies += average_file_bytes(draft, rank.state)
    yield Buffer(TEMPORARIES, files, phase, phase, "student's files")
    yield Buffer(TEMPORARIES, copies, phase, phase, "state")
