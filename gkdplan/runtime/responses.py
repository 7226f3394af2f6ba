"""Responses that a model samples for a step, the same in every layout."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch.distributed as dist

from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.megatron.generate import generate
from gkdplan.runtime.rollout.sampling import row_seed
from gkdplan.runtime.session import Session
from gkdplan.vocab import Role, Source


def sample_responses(
    session: Session, role: Role, examples: Sequence[Example], sampling: Sampling, step: int
) -> list[tuple[int, ...]]:
    """One response to each example's prompt, by `role`'s model.

    The seed of a row comes from (run seed, step, row), so a row's response does not depend on the
    rank or the batch that it is sampled in.
    """
    seeds = [row_seed(session.plan.training.seed, step, example.row) for example in examples]
    responses = generate(
        session.model(role),
        [example.prompt for example in examples],
        seeds,
        sampling,
        stop_ids=session.chat.stop_ids,
        vocab_size=session.plan.models.vocab_size,
    )
    return [tuple(response) for response in responses]


def of_all_ranks(mine: Mapping[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Responses by the numbers of their rows, from every rank; collective over all."""
    gathered: list[Mapping[int, tuple[int, ...]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    return {row: response for of_rank in gathered for row, response in of_rank.items()}


def log_completions(
    session: Session,
    step: int,
    source: Source,
    examples: Sequence[Example],
    responses: Sequence[Sequence[int]],
) -> None:
    """Write every row of the global batch to completions.jsonl, from rank 0.

    The ranks of a context group, neighbours in the data group, have the same rows.
    """
    mesh = session.mesh
    mine = list(zip(examples, responses, strict=True))
    gathered: list[list[tuple[Example, Sequence[int]]]] = [
        [] for _ in range(mesh.data_group.size())
    ]
    dist.all_gather_object(gathered, mine, group=mesh.data_group)
    if not session.is_main:
        return
    for example, response in chain.from_iterable(gathered[:: mesh.context_size]):
        session.metrics.log_completion(
            step=step,
            source=source,
            row=example.row,
            prompt=example.prompt_text,
            question=example.question,
            completion=session.chat.decode(response),
            num_tokens=len(response),
        )
