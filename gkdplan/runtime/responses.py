"""Responses that a model samples for a step, the same in every layout."""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import TypeVar

import torch.distributed as dist

from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.megatron.generate import generate
from gkdplan.runtime.megatron.lora import adapters_off
from gkdplan.runtime.rollout.engine import Completion, Request, SampleEngine
from gkdplan.runtime.rollout.sampling import row_seed
from gkdplan.runtime.session import Session
from gkdplan.vocab import Role, Source

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)


def sample_responses(
    session: Session, role: Role, examples: Sequence[Example], sampling: Sampling, step: int
) -> list[tuple[int, ...]]:
    """One response to each example's prompt, by `role`'s model.

    The seed of a row comes from (run seed, step, row), so a row's response does not depend on the
    rank or the batch that it is sampled in.
    """
    seeds = [row_seed(session.plan.training.seed, step, example.row) for example in examples]
    off = adapters_off(session.teacher) if role is Role.TEACHER else nullcontext()
    with off:
        responses = generate(
            session.model(role),
            [example.prompt for example in examples],
            seeds,
            sampling,
            stop_ids=session.chat.stop_ids,
            vocab_size=session.plan.models.vocab_size,
            look=lambda rows: session.look(role, [examples[row] for row in rows]),
            positions=session.positions(examples),
        )
    return [tuple(response) for response in responses]


def completions_of_engine(
    session: Session,
    engine: SampleEngine,
    examples: Sequence[Example],
    sampling: Sampling,
    step: int,
    role: Role = Role.STUDENT,
) -> dict[int, Completion]:
    """Those of examples that all ranks know, by row; collective over all ranks."""
    mine, requests = requests_of_share(session, engine, examples, step, role)
    completions = engine.generate(requests, sampling)
    return of_all_ranks({e.row: c for e, c in zip(mine, completions, strict=True)})


def requests_of_share(
    session: Session,
    engine: SampleEngine,
    examples: Sequence[Example],
    step: int,
    role: Role = Role.STUDENT,
) -> tuple[list[Example], list[Request]]:
    """Of examples that all ranks know, those that this rank asks for, and what it asks `role`'s
    model."""
    mine = [examples[place] for place in engine.share(len(examples))]
    seed = session.plan.training.seed
    return mine, [
        Request(e.prompt, row_seed(seed, step, e.row), e.teacher, session.images_of(e, role))
        for e in mine
    ]


def of_all_ranks(mine: Mapping[Key, T]) -> dict[Key, T]:
    """What belongs to a row, by the row's number, or to a part of one, from every rank; collective
    over all."""
    gathered: list[Mapping[Key, T]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    return {key: one for of_rank in gathered for key, one in of_rank.items()}


def log_completions(
    session: Session,
    step: int,
    source: Source,
    examples: Sequence[Example],
    completions: Sequence[Completion],
) -> None:
    """Write every row of the global batch to completions.jsonl, from rank 0.

    The ranks of a context group, neighbours in the data group, have the same rows.
    """
    mesh = session.mesh
    mine = list(zip(examples, completions, strict=True))
    gathered: list[list[tuple[Example, Completion]]] = [[] for _ in range(mesh.data_group.size())]
    dist.all_gather_object(gathered, mine, group=mesh.data_group)
    if not session.is_main:
        return
    for example, completion in chain.from_iterable(gathered[:: mesh.context_size]):
        session.metrics.log_completion(
            step=step,
            source=source,
            row=example.row,
            prompt=session.chat.decode(example.prompt, special=True),
            question=example.question,
            completion=session.chat.decode(completion.tokens),
            num_tokens=len(completion.tokens),
            weights_version=completion.weights_version,
        )
