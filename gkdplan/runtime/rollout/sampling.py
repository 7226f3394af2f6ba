"""The distribution that every engine samples from, and the uniform numbers that pick a token.

Legend: B rows, V ids of the vocabulary, C candidates.
"""

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Tensor

from gkdplan.runplan.draw import uniform

NUM_CANDIDATES = 4096
"""Largest probabilities looked at before a nucleus that is larger still costs a whole sort."""


def row_seed(seed: int, step: int, row: int) -> int:
    """The seed of one response: the first 63 bits of sha256("SEED:STEP:ROW").

    `row` is the row's number in the data, so that neither the layout nor the batch has a say in
    what is sampled.
    """
    digest = sha256(f"{seed}:{step}:{row}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uniforms(row_seeds: Sequence[int], position: int) -> Tensor:
    """One number in [0, 1) a row, float64 [B] on the CPU, for token `position` of its response."""
    return torch.tensor([uniform(seed, position) for seed in row_seeds], dtype=torch.float64)


def sample(
    logits_BV: Tensor,
    *,
    temperature: float,
    top_p: float,
    top_k: int | None,
    uniforms_B: Tensor,
    vocab_size: int,
) -> Tensor:
    """One token id a row, int64 [B]; ids from `vocab_size` on (padding) are never picked.

    The distribution is softmax(logits / temperature) in float32, cut to the `top_k` likeliest ids,
    renormalised, and cut to the fewest likeliest ids whose probabilities reach `top_p`: the order
    of vLLM and of transformers. Of equally likely ids the lower is the likelier. A temperature of
    0 takes the likeliest id. The pick inverts the cumulative distribution over ids in ascending
    order, summed in float64: the first id whose sum exceeds the row's uniform number times the
    total. Noise of eps in the probabilities thus changes a token with probability of about eps.

    Raises FloatingPointError where a row's logits hold NaN or positive infinity.
    """
    scores_BV = logits_BV[:, :vocab_size].float()
    if temperature == 0:
        largest_B, tokens_B = scores_BV.max(dim=-1)
        _require_finite(largest_B)
        return tokens_B
    scores_BV = scores_BV / temperature
    if top_k is not None and top_k < vocab_size:
        largest_BC = scores_BV.topk(top_k).values
        num_kept_B = torch.full_like(largest_BC[:, 0], top_k, dtype=torch.int64)
        scores_BV = scores_BV.where(_likeliest(scores_BV, largest_BC, num_kept_B), -torch.inf)
    probs_BV = scores_BV.softmax(dim=-1)
    _require_finite(probs_BV[:, 0])
    if top_p < 1:
        largest_BC = _descending(probs_BV, top_p)
        mass_before_BC = largest_BC.cumsum(dim=-1, dtype=torch.float64) - largest_BC
        num_kept_B = (mass_before_BC < top_p).sum(dim=-1)
        probs_BV = probs_BV.where(_likeliest(probs_BV, largest_BC, num_kept_B), 0)
    cumulative_BV = probs_BV.cumsum(dim=-1, dtype=torch.float64)
    target_B = uniforms_B.to(cumulative_BV) * cumulative_BV[:, -1]
    return torch.searchsorted(cumulative_BV, target_B[:, None], right=True)[:, 0]


def _likeliest(values_BV: Tensor, descending_BC: Tensor, num_B: Tensor) -> Tensor:
    """Whether an id is among the row's `num_B` largest; of equal ones the lower ids are."""
    threshold_B1 = descending_BC.gather(-1, num_B[:, None] - 1)
    above_BV, equal_BV = values_BV > threshold_B1, values_BV == threshold_B1
    num_equal_B1 = num_B[:, None] - above_BV.sum(dim=-1, keepdim=True)
    return above_BV | (equal_BV & (equal_BV.cumsum(dim=-1) <= num_equal_B1))


def _descending(probs_BV: Tensor, mass: float) -> Tensor:
    """The largest probabilities of each row in descending order, enough of them to reach `mass`."""
    if probs_BV.size(-1) > NUM_CANDIDATES:
        largest_BC = probs_BV.topk(NUM_CANDIDATES).values
        if (largest_BC.sum(dim=-1, dtype=torch.float64) > mass).all():
            return largest_BC
    return probs_BV.sort(dim=-1, descending=True).values


def _require_finite(values_B: Tensor) -> None:
    """A NaN or infinity among a row's logits spoils its maximum and all of its softmax."""
    if not values_B.isfinite().all():
        rows = (~values_B.isfinite()).nonzero()[:, 0].tolist()
        raise FloatingPointError(f"logits of rows {rows} are not finite: nothing can be sampled")
