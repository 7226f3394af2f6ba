"""A few of a step's responses, token by token: what each diverges by after the step's update."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from gkdplan.runtime.data.batch import MicroBatch, row_share
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.evaluation import measured, rounds, rows_of_round
from gkdplan.runtime.loss import TokenMeasures
from gkdplan.runtime.responses import of_all_ranks
from gkdplan.runtime.session import Session
from gkdplan.runtime.step_examples import examples_of_step
from gkdplan.runtime.step_state import StepState

NUM_ROWS = 4
"""Of a step, at most."""
Key = tuple[int, int]
"""A row, and a place in its response."""
Read = tuple[float, bool]
"""A token's divergence in nats, and whether it has the teacher's likeliest id where it stands."""


def read_aloud(session: Session, state: StepState) -> None:
    """Log the divergence of each token of the first responses that the step learnt from, and where
    both models would write the same token; every rank takes part in one round of an evaluation."""
    pairs = zip(state.examples, state.responses, strict=True)
    responses = of_all_ranks({example.row: response for example, response in pairs})
    answered = [
        replace(example, response=responses[example.row])
        for example in examples_of_step(session, state.step)
        if responses[example.row]
    ][: min(NUM_ROWS, rows_of_round(session))]
    found: dict[Key, Read] = {}
    with torch.no_grad(), session.residency.frozen_on_device():
        for of_all in rounds(session, answered):
            mine = of_all[session.mesh.data_rank :: session.plan.layout.student.data]
            for examples, (batch, measures) in zip(mine, measured(session, of_all), strict=False):
                found |= dict(_reads(session, examples, batch, measures))
    reads = of_all_ranks(found)
    if session.is_main:
        for example in answered:
            _log(session, state, example, [reads[key] for key in _keys(example)])


def _reads(
    session: Session, examples: Sequence[Example], batch: MicroBatch, measures: TokenMeasures
) -> Iterator[tuple[Key, Read]]:
    """By row and place in its response, those of the tokens that this rank has."""
    width = batch.tokens_BS.size(1)
    degrees = session.plan.layout.student
    places = row_share(degrees, session.mesh.context_rank).places(width * degrees.context)
    columns = (batch.predict_N, measures.divergences_N, measures.agree_N)
    for flat, divergence, agrees in zip(*(column.tolist() for column in columns), strict=True):
        b, column = divmod(flat, width)
        place = places[column] + 1 - len(examples[b].prompt)
        yield (examples[b].row, place), (divergence, agrees)


def _keys(example: Example) -> list[Key]:
    return [(example.row, place) for place in range(len(example.response or ()))]


def _log(session: Session, state: StepState, example: Example, reads: Sequence[Read]) -> None:
    assert example.response is not None
    session.metrics.log_tokens(
        step=state.step,
        source=state.source,
        row=example.row,
        question=example.question,
        tokens=[session.chat.decode([token], special=True) for token in example.response],
        divergences=[divergence for divergence, _ in reads],
        agree=[agrees for _, agrees in reads],
    )
