"""The steps that bring what the loss needs of the teacher: by a forward, or from its servers."""

import torch
import torch.distributed as dist

from gkdplan.runtime.data.batch import MicroBatch, Row
from gkdplan.runtime.responses import of_all_ranks
from gkdplan.runtime.session import Session
from gkdplan.runtime.step_examples import examples_of_step
from gkdplan.runtime.step_state import StepState
from gkdplan.runtime.teacher.payload import teacher_payloads
from gkdplan.runtime.teacher.resharding import resharding_of
from gkdplan.runtime.teacher.server import question_of
from gkdplan.vocab import Role


def run_teacher(session: Session, state: StepState) -> None:
    """The teacher's forward on its micro-batches; those of the student's are made too."""
    plan = session.plan
    if plan.layout.is_resharded:
        batches = _batches_of_all_ranks(session, state)
        state.resharding = resharding_of(plan, batches, plan.objective.payload)
        state.micro_batches = session.deal(Role.STUDENT, batches)
        of_teacher = session.deal(Role.TEACHER, batches)
    else:
        of_teacher = state.micro_batches = session.micro_batches(_rows(state))
    state.num_tokens = count_tokens(session, state.micro_batches)
    state.payloads = teacher_payloads(session.distillation, of_teacher)


def ask_teacher(session: Session, state: StepState) -> None:
    """The servers' likeliest ids of each response token."""
    state.micro_batches = session.micro_batches(_rows(state))
    state.num_tokens = count_tokens(session, state.micro_batches)
    size = session.plan.batch.micro_rows
    questions = list(map(question_of, state.examples, state.responses))
    batches = [questions[start : start + size] for start in range(0, len(questions), size)]
    state.payloads = session.served_teacher.payloads(batches)


def count_tokens(session: Session, micro_batches: list[MicroBatch]) -> int:
    """Response tokens of the global batch: the one denominator of its loss."""
    own = sum(batch.num_response_tokens for batch in micro_batches)
    count = torch.tensor(own, device=session.mesh.device)
    dist.all_reduce(count, group=session.mesh.data_group)
    return int(count)


def _rows(state: StepState) -> list[Row]:
    pairs = zip(state.examples, state.responses, strict=True)
    return [Row(example.prompt, response, example.shown) for example, response in pairs]


def _batches_of_all_ranks(session: Session, state: StepState) -> list[list[Row]]:
    """The micro-batches of the global batch, in order."""
    mine = zip(state.examples, state.responses, strict=True)
    responses = of_all_ranks({example.row: response for example, response in mine})
    examples, size = examples_of_step(session, state.step), session.plan.batch.micro_rows
    rows = [Row(e.prompt, responses[e.row], e.shown) for e in examples]
    return [rows[start : start + size] for start in range(0, len(rows), size)]
