"""The plan as one list of typed steps, walked by the outline and by the executor."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gkdplan.planner.draft import Draft, engine_of, sampling_roles
from gkdplan.planner.memory.checkpoint import checkpoint_bytes
from gkdplan.planner.memory.fused import fused_of
from gkdplan.planner.memory.model import rank_model
from gkdplan.planner.memory.payload import kept_ids, payload_bytes, payload_width
from gkdplan.planner.memory.stream import streamed_bytes
from gkdplan.runplan.model import Training
from gkdplan.runplan.steps import (
    AskTeacher,
    Await,
    Checkpoint,
    Draw,
    Evaluate,
    Generate,
    GenerateAhead,
    Move,
    OptimizerStep,
    Refit,
    Reshard,
    Step,
    StudentStep,
    TakeSamples,
    TeacherForward,
)
from gkdplan.vocab import Phase, Source


def lower_steps(draft: Draft, moves: Sequence[Move]) -> tuple[Step, ...]:
    """The steps of one global batch, in order; moves come before the steps of their phase, after
    the copies that are due there."""
    return tuple(_steps(draft, moves))


def _steps(draft: Draft, moves: Sequence[Move]) -> Iterator[Step]:
    objective, training = draft.objective, draft.training
    yield Draw(seed=training.seed, lmbda=objective.lmbda, seq_kd=objective.seq_kd)
    yield from _moves_of(moves, Phase.REFIT)
    if draft.sampling.refit_bucket_bytes:
        student = draft.models.student
        num_bytes = student.num_parameters * student.dtype.num_bytes
        yield Refit(num_bytes=num_bytes, bucket_bytes=draft.sampling.refit_bucket_bytes)
    yield from _moves_of(moves, Phase.GENERATE)
    for source, role in sampling_roles(draft):
        yield Generate(
            source=source,
            role=role,
            engine=engine_of(draft, role),
            rows_per_rank=draft.rows_per_rank,
            max_completion_length=draft.sampling.max_completion_length,
        )
    if draft.sampling.staleness:
        yield GenerateAhead(
            bucket_bytes=draft.sampling.refit_bucket_bytes,
            num_rows=draft.batch.global_rows,
            max_completion_length=draft.sampling.max_completion_length,
        )
    if draft.data.samples is not None:
        yield TakeSamples(Source.TEACHER, draft.data.samples.path, draft.rows_per_rank)
    yield from _moves_of(moves, Phase.TEACHER)
    yield _teacher_step(draft)
    if draft.layout.is_resharded:
        yield _reshard(draft)
    yield from _moves_of(moves, Phase.STUDENT)
    yield StudentStep(num_micro_batches=draft.batch.num_micro_batches)
    yield from _moves_of(moves, Phase.OPTIMIZER)
    yield OptimizerStep(
        name=draft.optimizer.name,
        schedule=draft.optimizer.schedule,
        clip_grad=draft.optimizer.clip_grad,
        ema_decay=draft.models.teacher.ema_decay,
    )
    yield from _moves_of(moves, Phase.CHECKPOINT)
    if draft.data.eval:
        num_rows = sum(source.num_rows for source in draft.data.eval)
        yield Evaluate(training.eval_interval, num_rows, training.eval_samples)
    yield Checkpoint(
        interval=training.save_interval,
        keep=training.keep,
        num_bytes=checkpoint_bytes(draft),
        num_at_once=_most_checkpoints(training),
        is_beside=training.async_save,
    )


def _most_checkpoints(training: Training) -> int:
    """A new one is whole before the oldest goes; a plan whose rows fill no step has none."""
    interval = training.save_interval or max(1, training.num_steps)
    return min(training.keep + 1, -(-training.num_steps // interval))


def _teacher_step(draft: Draft) -> AskTeacher | TeacherForward:
    """The forward on the ranks, or the question to the server."""
    max_tokens = draft.rows_per_rank * draft.sampling.max_completion_length
    server = draft.models.teacher.server
    if server is not None:
        return AskTeacher(server.urls, draft.rows_per_rank, max_tokens, kept_ids(draft.objective))
    degrees = draft.layout.teacher
    last_stage = degrees.pipeline - 1
    teacher = rank_model(draft.models.teacher, degrees, fused_of(draft.layout), last_stage)
    num_micro_batches = draft.num_micro_batches(degrees)
    num_rows = num_micro_batches * draft.batch.micro_rows
    return TeacherForward(
        num_micro_batches=num_micro_batches,
        payload=draft.objective.payload,
        max_tokens=num_rows * draft.sampling.max_completion_length,
        width=payload_width(teacher, draft.objective),
        streamed_bytes=num_micro_batches * streamed_bytes(draft),
    )


def _reshard(draft: Draft) -> Reshard:
    layout, objective = draft.layout, draft.objective
    student = layout.student
    teacher = rank_model(draft.models.teacher, layout.teacher, fused_of(layout), stage=0)
    num_tokens = draft.rows_per_rank * draft.response_tokens(student)
    num_bytes = payload_bytes(replace(teacher, tensor=student.tensor), objective, num_tokens)
    return Reshard(payload=objective.payload, num_bytes=num_bytes)


def _moves_of(moves: Sequence[Move], phase: Phase) -> Iterator[Await | Move]:
    yield from (Await(phase, move.object) for move in moves if move.due is phase)
    yield from (move for move in moves if move.phase is phase)
