"""The K likeliest ids of a model's hidden states, chunk by chunk over the vocabulary of all ranks.

Legend: N tokens, C tokens of one chunk, H hidden size, V true vocabulary entries of this rank,
K ids of a token, t ranks.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runtime.loss.distribution import working_dtype
from gkdplan.runtime.loss.products import logits_
from gkdplan.runtime.loss.softcap import bound_
from gkdplan.runtime.loss.top_k import Buckets, TopK
from gkdplan.runtime.loss.vocabulary import VocabularyShard

NOWHERE = -1
"""An id that no rank holds: it stands where a rank has fewer than K ids."""


def likeliest(
    hidden: Tensor,
    head: Tensor,
    k: int,
    *,
    temperature: float,
    chunk_tokens: int,
    group: dist.ProcessGroup | None = None,
    vocab_size: int | None = None,
    softcap: float | None = None,
) -> TopK:
    """Of softmax(hidden [N, H] head^T / temperature) over the true vocabulary, without gradient;
    products are bounded by a `softcap` before.

    `head` [V/t, H] is this rank's share as in `jsd_linear`; every rank gets the same: ids int32,
    log-probabilities and tail float32. Only `chunk_tokens` tokens have logits at one time, float32.
    Ranks exchange twice a chunk: a gather of K values with their ids, and one of K + 1.

    Raises ValueError where k is not among 1 ... vocab_size.
    """
    shard = VocabularyShard(len(head), vocab_size, group)
    if not 0 < k <= shard.vocab_size:
        raise ValueError(f"top {k} of a vocabulary of {shard.vocab_size} ids")
    head_VH = head.detach()[: shard.num_entries]
    found = TopK(
        hidden.new_empty((len(hidden), k), dtype=torch.int32),
        hidden.new_empty((len(hidden), k), dtype=torch.float32),
        hidden.new_empty(len(hidden), dtype=torch.float32),
    )
    size = (min(chunk_tokens, len(hidden)), shard.num_entries)
    buffer_CV = hidden.new_empty(size, dtype=working_dtype(hidden))
    for start in range(0, len(hidden), chunk_tokens):
        tokens = slice(start, min(start + chunk_tokens, len(hidden)))
        part_CH = hidden.detach()[tokens]
        logits_CV = logits_(buffer_CV[: len(part_CH)], part_CH, head_VH)
        _write(found, tokens, bound_(logits_CV, softcap), temperature, shard)
    return found


def likeliest_id(logits_NV: Tensor, shard: VocabularyShard) -> Tensor:
    """The global id [N], int64, of each row's largest logit; of equals the smallest id."""
    if logits_NV.shape[1]:
        values_N, places_N = logits_NV.max(dim=1).values, logits_NV.argmax(dim=1)
    else:
        values_N = logits_NV.new_full((len(logits_NV),), -torch.inf)
        places_N = torch.zeros(len(logits_NV), dtype=torch.int64, device=logits_NV.device)
    candidates = torch.stack([values_N.double(), (places_N + shard.first_id).double()])
    values_tN, ids_tN = shard.gather(candidates).unbind(dim=1)
    is_largest = values_tN == values_tN.max(dim=0).values
    return ids_tN.masked_fill(~is_largest, torch.inf).min(dim=0).values.long()


def _write(
    found: TopK, tokens: slice, logits_CV: Tensor, temperature: float, shard: VocabularyShard
) -> None:
    """What is known of the tokens whose logits these are."""
    assert found.tail_N is not None
    ids_CK = _likeliest_ids(logits_CV, found.ids_NK.shape[1], shard)
    log_masses = Buckets(logits_CV, ids_CK, temperature, shard).log_masses()
    log_probs_CK1 = log_masses.log_softmax(dim=1)
    found.ids_NK[tokens] = ids_CK
    found.log_probs_NK[tokens] = log_probs_CK1[:, :-1]
    found.tail_N[tokens] = log_probs_CK1[:, -1]


def _likeliest_ids(logits_CV: Tensor, k: int, shard: VocabularyShard) -> Tensor:
    """Global ids [C, K], int64, the likeliest first: the likeliest of each rank's likeliest."""
    num_here = min(k, logits_CV.shape[1])
    values, places = logits_CV.topk(num_here, dim=1)
    if shard.size == 1:
        return places
    candidates = logits_CV.new_full((2, len(logits_CV), k), -torch.inf, dtype=torch.float64)
    candidates[1] = NOWHERE
    candidates[0, :, :num_here] = values
    candidates[1, :, :num_here] = places + shard.first_id
    values_tCK, ids_tCK = shard.gather(candidates).unbind(dim=1)
    _, chosen = values_tCK.transpose(0, 1).flatten(1).topk(k, dim=1)
    return ids_tCK.transpose(0, 1).flatten(1).gather(1, chosen).long()
