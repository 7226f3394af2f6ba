"""Sampling with megatron-core's own modules and a cache of keys and values.

Legend: B rows, T tokens of all rows, H hidden size, V ids of the padded vocabulary, D head size.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.megatron.inference_state import inference_state
from gkdplan.runtime.megatron.kv_cache import KeyValueCache
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.rollout.sampling import sample, uniforms

PREFILL_TOKENS = 8192
"""Prompt tokens of one forward at most (one prompt at least): bounds its activations."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def generate(
    model: GPTModel,
    prompts: Sequence[Sequence[int]],
    row_seeds: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
    vocab_size: int,
    mesh: Mesh,
) -> list[list[int]]:
    """One completion a prompt, in order, its stop token included where one was drawn.

    Token j of a completion is `sample`d from the logits after its prompt and j tokens with
    `uniforms([row_seed], j)`, over the first `vocab_size` ids. A completion ends with an id of
    `stop_ids` or after `sampling.max_completion_length` tokens.

    Collective over the tensor axis: its ranks pass the same arguments and get the same tokens.
    Sequence parallelism is off and the model in eval mode meanwhile; both are restored, also when
    this raises. Besides the logits of one token a row and the activations of `PREFILL_TOKENS`, a
    rank needs the cache (`KeyValueCache`), freed on return:
    2 * layers * rows * kv heads of the rank * head size * (longest prompt + max_completion_length)
    elements of the model's dtype. Rows that are done leave it when half of its rows are.

    Raises FloatingPointError when logits are not finite.
    """
    if not prompts:
        return []
    completions: list[list[int]] = [[] for _ in prompts]
    in_progress = set(range(len(prompts)))
    with inference_state(model):
        rotary = _rotary_tables(model, max(map(len, prompts)) + sampling.max_completion_length)
        cache = KeyValueCache(model, [len(p) for p in prompts], sampling.max_completion_length)
        logits_BV = _prefill(model, prompts, cache, rotary)
        rows = list(in_progress)
        for position in range(sampling.max_completion_length):
            uniforms_B = uniforms([row_seeds[row] for row in rows], position)
            tokens_B = _pick(logits_BV, uniforms_B, sampling, vocab_size, mesh)
            for row, token in zip(rows, tokens_B.tolist(), strict=True):
                if row in in_progress:
                    completions[row].append(token)
                    if token in stop_ids:
                        in_progress.remove(row)
            if not in_progress or position + 1 == sampling.max_completion_length:
                break
            if 2 * len(in_progress) <= len(rows):
                kept = [index for index, row in enumerate(rows) if row in in_progress]
                rows, tokens_B = [rows[index] for index in kept], tokens_B[kept]
                cache.keep_rows(kept)
            logits_BV = _decode(model, tokens_B, cache, rotary)
    return completions


def _pick(
    logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling, vocab_size: int, mesh: Mesh
) -> Tensor:
    """The next token of each row, int64 [B]: the first tensor rank's, as sums on GPUs may vary."""
    tokens_B = sample(
        logits_BV,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        uniforms_B=uniforms_B,
        vocab_size=vocab_size,
    )
    if mesh.tensor_size > 1:
        torch.distributed.broadcast(tokens_B, group=mesh.tensor_group, group_src=0)
    return tokens_B


def _prefill(
    model: GPTModel,
    prompts: Sequence[Sequence[int]],
    cache: KeyValueCache,
    rotary: tuple[Tensor, Tensor],
) -> Tensor:
    """Run the prompts as one sequence without padding; the logits that follow each, [B, V]."""
    logits_BV = []
    for rows in _batches([len(prompt) for prompt in prompts]):
        ends_B = torch.tensor([len(prompts[row]) for row in rows]).cumsum(0)
        tokens_T = cache.starts_B.new_tensor([token for row in rows for token in prompts[row]])
        positions_T = cache.starts_B.new_tensor(
            [i for row in rows for i in range(len(prompts[row]))]
        )
        attend = partial(cache.attend_prompts, rows)
        hidden_TH = _hidden(model, tokens_T, positions_T, rotary, attend)
        logits_BV.append(_logits(model, hidden_TH[ends_B - 1]))
    return torch.cat(logits_BV)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive rows of `PREFILL_TOKENS` prompt tokens at most, or of one prompt."""
    rows: list[int] = []
    for row, length in enumerate(lengths):
        if rows and sum(lengths[r] for r in rows) + length > PREFILL_TOKENS:
            yield rows
            rows = []
        rows.append(row)
    yield rows


def _decode(
    model: GPTModel, tokens_B: Tensor, cache: KeyValueCache, rotary: tuple[Tensor, Tensor]
) -> Tensor:
    """Append one token a row; the next logits [B, V]."""
    positions_B = cache.add_column()
    return _logits(model, _hidden(model, tokens_B, positions_B, rotary, cache.attend_tokens))


def _hidden(
    model: GPTModel,
    tokens_T: Tensor,
    positions_T: Tensor,
    rotary: tuple[Tensor, Tensor],
    attend: Attend,
) -> Tensor:
    """The decoder's layers with `attend` as their attention: [T, H], before the final norm.

    Megatron's modules see one sequence of T positions, [T, 1, H]: all but attention treat positions
    alike, so that it may hold several rows.
    """
    cos, sin = (table[positions_T][:, None, None] for table in rotary)
    hidden = model.embedding(tokens_T[None], position_ids=None)
    for index, layer in enumerate(model.decoder.layers):
        attention = layer.self_attention
        query, key, value = attention.get_query_key_value_tensors(layer.input_layernorm(hidden))
        context = attend(index, _rotate(query, cos, sin), _rotate(key, cos, sin), value)
        hidden = hidden + attention.linear_proj(context)[0]
        hidden = hidden + layer.mlp(layer.pre_mlp_layernorm(hidden))[0]
    return hidden[:, 0]


def _logits(model: GPTModel, hidden_BH: Tensor) -> Tensor:
    """Final norm and output head, gathered over the tensor axis: [B, V]."""
    tied = model.share_embeddings_and_output_weights
    weight = model.shared_embedding_or_output_weight() if tied else None
    normed = model.decoder.final_layernorm(hidden_BH[:, None])
    return model.output_layer(normed, weight=weight, runtime_gather_output=True)[0][:, 0]


def _rotary_tables(model: GPTModel, num_positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each position's angles, [num_positions, D] in the model's dtype."""
    angles = model.rotary_pos_emb.get_emb(num_positions)[:, 0, 0]
    dtype = model.config.params_dtype
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [T, 1, heads, D]: coordinate i of D/2 turns with coordinate i + D/2."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
