"""Sampling with megatron-core's own modules and a cache of keys and values.

Legend: B rows, T tokens of all rows, V ids of the padded vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.megatron.decoder import Decoder
from gkdplan.runtime.megatron.inference_state import inference_state
from gkdplan.runtime.megatron.kv_cache import KeyValueCache
from gkdplan.runtime.megatron.mesh import tensor_group_of
from gkdplan.runtime.rollout.sampling import sample, uniforms
from gkdplan.runtime.vision.pixels import Pixels

PREFILL_TOKENS = 8192
"""Prompt tokens of one forward at most (one prompt at least): bounds its activations."""


Look = Callable[[Sequence[int]], Pixels | None]
"""From some of the prompts, by their numbers, to what the tower takes of their images, which stand
in the prompts as if they were one sequence."""


def blind(rows: Sequence[int]) -> None:
    """Of prompts without images."""


@torch.no_grad()
def generate(
    chunks: Sequence[GPTModel],
    prompts: Sequence[Sequence[int]],
    row_seeds: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
    vocab_size: int,
    look: Look = blind,
    positions: Sequence[Tensor] | None = None,
) -> list[list[int]]:
    """One completion a prompt, in order, its stop token included where one was drawn. `look` gives
    what the tower takes of prompts that show images, `positions`, [3, tokens] of each prompt, where
    its tokens stand in a model whose images have rows and columns.

    Token j of a completion is `sample`d from the logits after its prompt and j tokens with
    `uniforms([row_seed], j)`, over the first `vocab_size` ids. A completion ends with an id of
    `stop_ids` or after `sampling.max_completion_length` tokens.

    Collective over the ranks of a model, `chunks` being this one's: those of the tensor, pipeline
    and context axis pass the same arguments and get the same tokens; ranks that hold each other's
    experts all pass a prompt or none. Sequence parallelism is off and the model in eval mode
    meanwhile; both are restored, also when this raises. Besides the logits of one token a row and
    the activations of `PREFILL_TOKENS`, a rank needs the cache (`KeyValueCache`), freed on return:
    2 * layers of the rank * rows * kv heads of the rank * head size
    * (longest prompt + max_completion_length) elements of the model's dtype. Rows that are done
    leave it when half of its rows are.

    Raises FloatingPointError on the last stage when logits are not finite.
    """
    if not prompts:
        return []
    with inference_state(chunks), tensor_group_of(chunks[0].pg_collection):
        num_positions = max(map(len, prompts)) + sampling.max_completion_length
        decoder = Decoder(chunks, num_positions)
        places = [torch.arange(len(p)) for p in prompts] if positions is None else positions
        cache = KeyValueCache(
            decoder,
            [len(prompt) for prompt in prompts],
            sampling.max_completion_length,
            [int(place.max()) + 1 for place in places],
        )
        hidden_BH = _prefill(decoder, prompts, places, cache, look)
        return _complete(decoder, cache, hidden_BH, row_seeds, sampling, stop_ids, vocab_size)


def _complete(
    decoder: Decoder,
    cache: KeyValueCache,
    hidden_BH: Tensor,
    row_seeds: Sequence[int],
    sampling: Sampling,
    stop_ids: frozenset[int],
    vocab_size: int,
) -> list[list[int]]:
    """`hidden_BH` are the states of each prompt's last token."""
    completions: list[list[int]] = [[] for _ in row_seeds]
    in_progress = set(range(len(row_seeds)))
    rows = list(in_progress)
    for position in range(sampling.max_completion_length):
        uniforms_B = uniforms([row_seeds[row] for row in rows], position)
        tokens_B = _pick(decoder, hidden_BH, uniforms_B, sampling, vocab_size)
        for row, token in zip(rows, tokens_B.tolist(), strict=True):
            if row in in_progress:
                completions[row].append(token)
                if token in stop_ids:
                    in_progress.remove(row)
        if position + 1 == sampling.max_completion_length or not decoder.most(len(in_progress)):
            break
        if 2 * len(in_progress) <= len(rows) > 1:
            kept = [i for i, row in enumerate(rows) if row in in_progress] or [0]
            rows, tokens_B = [rows[index] for index in kept], tokens_B[kept]
            cache.keep_rows(kept)
        hidden_BH = decoder.hidden(tokens_B, cache.add_column(), cache.attend_tokens)
    return completions


def _pick(
    decoder: Decoder, hidden_BH: Tensor, uniforms_B: Tensor, sampling: Sampling, vocab_size: int
) -> Tensor:
    """The next token of each row, int64 [B], drawn on the last stage."""
    if not decoder.is_last_stage:
        return decoder.agree(torch.empty(len(hidden_BH), dtype=torch.int64, device=decoder.device))
    tokens_B = sample(
        decoder.logits(hidden_BH),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        uniforms_B=uniforms_B,
        vocab_size=vocab_size,
    )
    return decoder.agree(tokens_B)


def _prefill(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    places: Sequence[Tensor],
    cache: KeyValueCache,
    look: Look,
) -> Tensor:
    """Run the prompts as one sequence without padding; the states of each one's last token, [B, H].

    Where other ranks' prompts make more batches, this one's are run again, for their experts.
    """
    batches = list(_batches([len(prompt) for prompt in prompts]))
    last_BH = []
    for rows in islice(cycle(batches), decoder.most(len(batches))):
        ends_B = torch.tensor([len(prompts[row]) for row in rows]).cumsum(0)
        tokens_T = cache.starts_B.new_tensor([token for row in rows for token in prompts[row]])
        positions = torch.cat([places[row] for row in rows], dim=-1).to(decoder.device)
        attend = partial(cache.attend_prompts, rows)
        hidden_TH = decoder.hidden(tokens_T, positions, attend, look(rows))
        last_BH.append(hidden_TH[ends_B - 1])
    return torch.cat(last_BH[: len(batches)])


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive rows of `PREFILL_TOKENS` prompt tokens at most, or of one prompt."""
    rows: list[int] = []
    for row, length in enumerate(lengths):
        if rows and sum(lengths[r] for r in rows) + length > PREFILL_TOKENS:
            yield rows
            rows = []
        rows.append(row)
    yield rows
