"""The CPU's core attention against softmax attention written out in float64."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gkdplan.runtime.megatron.cpu_modules import CoreAttention

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, ROWS = 4, 2, 8, 3


def attention() -> CoreAttention:
    return CoreAttention(SimpleNamespace(attention_dropout=0.0, softmax_scale=None), layer_number=1)


def qkv(num_queries: int, num_keys: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(num_queries)
    query = torch.randn(num_queries, ROWS, NUM_HEADS, HEAD_DIM)
    key, value = torch.randn(2, num_keys, ROWS, NUM_KV_HEADS, HEAD_DIM)
    return query, key, value


def written_out(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """`hidden` broadcasts to [B, N, S, K]; a query that sees nothing yields zeros."""
    repeats = NUM_HEADS // NUM_KV_HEADS
    key, value = (t.double().repeat_interleave(repeats, dim=2) for t in (key, value))
    scores = torch.einsum("sbnd,kbnd->bnsk", query.double(), key) / HEAD_DIM**0.5
    scores = scores.masked_fill(hidden, float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    return torch.einsum("bnsk,kbnd->sbnd", weights, value).flatten(2)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(7, 7), (1, 7), (3, 7), (1, 1)])
def test_without_a_mask_queries_are_the_last_positions(num_queries: int, num_keys: int) -> None:
    query, key, value = qkv(num_queries, num_keys)
    positions = torch.arange(num_keys - num_queries, num_keys)[:, None]
    later = torch.arange(num_keys)[None] > positions
    result = attention()(query, key, value, None)
    torch.testing.assert_close(
        result.double(), written_out(query, key, value, later), rtol=1e-5, atol=1e-6
    )


def test_left_padding_hides_keys_and_padded_queries_yield_zeros() -> None:
    query, key, value = qkv(7, 7)
    num_padding = torch.tensor([0, 2, 5])
    later = torch.arange(7)[None] > torch.arange(7)[:, None]
    padding_BK = torch.arange(7)[None] < num_padding[:, None]
    hidden = later[None, None] | padding_BK[:, None, None]
    result = attention()(query, key, value, hidden)
    expected = written_out(query, key, value, hidden)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)
    assert not result[:5, 2].any()


def test_decoding_one_token_with_a_padding_mask() -> None:
    query, key, value = qkv(1, 9)
    hidden = (torch.arange(9)[None] < torch.tensor([0, 3, 8])[:, None])[:, None, None]
    result = attention()(query, key, value, hidden)
    torch.testing.assert_close(
        result.double(), written_out(query, key, value, hidden), rtol=1e-5, atol=1e-6
    )
