"""Every row of data.train once, batch after batch, into the unfinished file."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.data.cache.images import chat_with_copies, chat_with_what_is_there
from gkdplan.runtime.data.cache.owned import KeptIn, Tell
from gkdplan.runtime.data.cache.shelf import wait_for_rank_0
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.data.examples import Example, Split, load_examples
from gkdplan.runtime.phases import Position
from gkdplan.runtime.responses import of_all_ranks
from gkdplan.runtime.rollout.sampling import row_seed
from gkdplan.runtime.samples.engines import Sampler, open_sampler
from gkdplan.runtime.samples.partial import PartialFile
from gkdplan.runtime.samples.progress import SampleProgress
from gkdplan.runtime.samples.prompts import fingerprint_of
from gkdplan.vocab import Phase, Role

SAMPLE_STEP = 0
"""Of the rows' seeds: no step of a run has this number."""


def sample_rows(
    plan: RunPlan,
    role: Role,
    chat: Chat,
    partial: PartialFile,
    num_done: int,
    position: Position,
    progress: SampleProgress,
    scratch: Path,
) -> None:
    """Append a sample to every row after the first `num_done`, in the order of the rows.

    Rows that `data.truncation` leaves out have none. A batch has as many rows as a global batch,
    whose cache of keys and values the plan has priced. Images of addresses are fetched into
    `data.cache`, or into `scratch`. Raises UserError for what the user can mend.
    """
    position.phase = "load"
    limit, server = plan.sampling.max_completion_length, plan.models.teacher.server
    split = Split(plan.data.train, plan.data, limit, server=server)
    place = KeptIn.of(plan) if plan.data.cache else KeptIn(scratch, "data.cache")
    chat = _with_what_addresses_give(chat, split, place, progress.tell)
    rows = load_examples(split, chat)
    for line in replace(rows, num_cut=0).notes:  # no response of the dataset is read here
        progress.tell(line)
    examples, size = rows.examples, plan.batch.global_rows
    with open_sampler(plan, role, chat, progress.tell) as sampler:
        progress.begin(num_done, len(examples))
        for start in range(num_done, len(examples), size):
            batch = examples[start : start + size]
            position.step, position.phase = position.step + 1, Phase.GENERATE
            responses = _draw(sampler, plan, batch, getattr(plan.layout, role).data)
            if dist.get_rank() == 0:
                partial.append([_sample(e, responses[e.row], chat) for e in batch])
            num_tokens = sum(map(len, responses.values()))
            progress.finish_batch(start + len(batch), len(examples), num_tokens)


def _with_what_addresses_give(chat: Chat, split: Split, place: KeptIn, tell: Tell) -> Chat:
    """As a run has it: rank 0 fetches what is not there."""
    if chat.eyes is None or not chat.eyes.limits.hosts:
        return chat
    if dist.get_rank() == 0:
        chat_with_copies(chat, split, place, tell)
    wait_for_rank_0()
    return chat_with_what_is_there(chat, place)


def _draw(
    sampler: Sampler, plan: RunPlan, batch: Sequence[Example], num_shares: int
) -> dict[int, tuple[int, ...]]:
    """A response to each row of the batch, by its number, on every rank.

    Rows are repeated until all ranks have as many; a repeated row is drawn alike.
    """
    num_rows = -(-len(batch) // num_shares) * num_shares
    padded = list(islice(cycle(batch), num_rows))
    mine = [padded[place] for place in sampler.share(num_rows)]
    seeds = [row_seed(plan.training.seed, SAMPLE_STEP, example.row) for example in mine]
    drawn = sampler.draw(mine, seeds, plan.sampling)
    return of_all_ranks({e.row: tuple(r) for e, r in zip(mine, drawn, strict=True)})


def _sample(example: Example, response: tuple[int, ...], chat: Chat) -> dict[str, Any]:
    """One line of the file."""
    is_ended = response[-1] in chat.stop_ids
    return {
        "row": example.row,
        "prompt_sha256": fingerprint_of(example, chat.eyes),
        "response": list(response),
        "text": chat.decode(response),
        "finish_reason": "stop" if is_ended else "length",
    }
