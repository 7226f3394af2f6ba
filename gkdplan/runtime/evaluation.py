"""Held-out divergence from the teacher, cross-entropy on the dataset's responses, and agreement."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import lcm
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runtime.data.batch import MicroBatch, Row
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.loss import TokenMeasures, token_measures
from gkdplan.runtime.megatron.forward import output_head, response_hidden, stage_output
from gkdplan.runtime.megatron.schedule import run_schedule
from gkdplan.runtime.session import Session
from gkdplan.runtime.teacher.payload import TeacherPayload, teacher_payloads
from gkdplan.runtime.teacher.resharding import reshard, resharding_of
from gkdplan.runtime.teacher.server import question_of
from gkdplan.vocab import Payload, Role


def evaluate(session: Session, step: int) -> None:
    """Log the student's mean JSD and cross-entropy (nats a token), and the share of tokens whose
    likeliest id is the teacher's too, over the held-out rows."""
    session.phases.enter("evaluate")
    rows = [example for example in session.held_out.examples if example.response]
    totals = torch.zeros(4, dtype=torch.float64, device=session.mesh.device)
    with torch.no_grad(), session.residency.frozen_on_device():
        for examples in rounds(session, rows):
            for batch, measures in measured(session, examples):
                totals[:3] += measures.sums()
                totals[3] += batch.num_response_tokens
    for group in (session.mesh.data_group, session.mesh.pipeline_group):
        if group.size() > 1:
            dist.all_reduce(totals, group=group)
    *sums, num_tokens = totals.tolist()
    divergence, cross_entropy, agreement = (one / max(1.0, num_tokens) for one in sums)
    session.metrics.log_eval(
        step=step,
        jsd=divergence,
        cross_entropy=cross_entropy,
        top1_agreement=agreement,
        num_tokens=int(num_tokens),
    )


def rounds(session: Session, rows: Sequence[Example]) -> Iterator[list[list[Example]]]:
    """The micro-batches of all ranks, of either model one for each stage at one time: of rows that
    every rank knows.

    Stages wait for each other, and so do ranks that hold each other's experts: a round that has too
    few rows is filled with rows of one token, which has no response.
    """
    size = session.plan.batch.micro_rows
    num_rows = rows_of_round(session)
    filler = Example(-1, "", (session.chat.pad_id,), (), "")
    for start in range(0, len(rows), num_rows):
        found = list(rows[start : start + num_rows])
        found += [filler] * (num_rows - len(found))
        yield [found[i : i + size] for i in range(0, num_rows, size)]


def rows_of_round(session: Session) -> int:
    """Rows that all ranks measure at one time."""
    layout = session.plan.layout
    both = (layout.student, layout.teacher)
    return session.plan.batch.micro_rows * lcm(*(d.data * d.pipeline for d in both))


def measured(
    session: Session, of_all: Sequence[Sequence[Example]]
) -> Iterator[tuple[MicroBatch, TokenMeasures]]:
    """This rank's micro-batches of one round, on the last stage, with what their response tokens
    say; none on the others."""
    objective = session.plan.objective
    rows = [[Row(e.prompt, e.response or (), e.shown) for e in batch] for batch in of_all]
    batches = session.deal(Role.STUDENT, rows)
    payloads = _payloads(session, of_all, rows)
    for batch, payload, hidden in zip(batches, payloads, _hidden(session, batches), strict=False):
        assert payload is not None
        yield (
            batch,
            token_measures(
                hidden,
                output_head(session.student[-1]),
                payload.states,
                session.teacher_head,
                batch.labels_N,
                beta=objective.beta,
                temperature=objective.loss_temperature,
                group=session.mesh.tensor_group,
                chunk_tokens=objective.chunk_tokens,
                backend=objective.loss_backend,
                vocab_size=session.plan.models.vocab_size,
                student_softcap=session.plan.models.student.shape.logit_softcap,
                teacher_softcap=session.plan.models.teacher.shape.logit_softcap,
            ),
        )


def _payloads(
    session: Session, of_all: Sequence[Sequence[Example]], rows: Sequence[Sequence[Row]]
) -> list[TeacherPayload | None]:
    """For each micro-batch of this rank the teacher's hidden states, or what its server gives."""
    if session.plan.models.teacher.server is not None:
        data = session.plan.layout.student.data
        mine = of_all[session.mesh.data_rank :: data]
        return session.served_teacher.payloads(
            [[question_of(e, e.response or ()) for e in batch] for batch in mine]
        )
    objective = replace(session.plan.objective, payload=Payload.HIDDEN)
    distillation = replace(session.distillation, objective=objective)
    payloads = teacher_payloads(distillation, session.deal(Role.TEACHER, rows))
    if session.plan.layout.is_resharded:
        resharding = resharding_of(session.plan, rows, Payload.HIDDEN)
        payloads = reshard(resharding, payloads, session.mesh.device)
    return payloads


def _hidden(session: Session, batches: Sequence[MicroBatch]) -> list[Tensor]:
    """The student's final hidden states [N, H] of each micro-batch; none but on the last stage."""

    def forward_step(
        remaining: Iterator[MicroBatch], chunk: Any
    ) -> tuple[Tensor, Callable[..., Tensor]]:
        batch = next(remaining)
        if not chunk.post_process:
            return stage_output(chunk, batch.tokens_BS, sight=batch.sight), _keep
        return response_hidden(chunk, batch.tokens_BS, batch.predict_N, sight=batch.sight), _keep

    shape = tuple(batches[0].tokens_BS.shape)
    return run_schedule(session.student, batches, forward_step, shape=shape, forward_only=True)


def _keep(hidden_NH: Tensor, *, non_loss_data: bool) -> Tensor:
    """What Megatron's schedule collects of the last chunk."""
    assert non_loss_data
    return hidden_NH
