"""Core attention of torch's kernels against softmax attention written out in float64."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gkdplan.runtime.megatron.causal_attention import _attend_by_kv_head
from gkdplan.runtime.megatron.torch_modules import CoreAttention

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, ROWS = 4, 2, 8, 3


def written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Query head n reads kv head n // 2; position s sees the positions up to s."""
    repeats = NUM_HEADS // NUM_KV_HEADS
    key, value = (t.double().repeat_interleave(repeats, dim=2) for t in (key, value))
    scores = torch.einsum("sbnd,kbnd->bnsk", query.double(), key) / HEAD_DIM**0.5
    later = torch.ones(len(query), len(query), dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, float("-inf")).softmax(-1)
    return torch.einsum("bnsk,kbnd->sbnd", weights, value).flatten(2)


@pytest.mark.parametrize("num_positions", [1, 7, 33])
def test_positions_see_themselves_and_what_came_before(num_positions: int) -> None:
    torch.manual_seed(num_positions)
    query = torch.randn(num_positions, ROWS, NUM_HEADS, HEAD_DIM)
    key, value = torch.randn(2, num_positions, ROWS, NUM_KV_HEADS, HEAD_DIM)
    config = SimpleNamespace(attention_dropout=0.0, softmax_scale=None)
    result = CoreAttention(config, layer_number=1)(query, key, value, None)
    expected = written_out(query, key, value)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_way_of_float32_on_cuda_gives_the_same():
    """On a CPU: its views and orders, not CUDA's kernel."""
    torch.manual_seed(0)
    fused = torch.randn(5, ROWS, NUM_KV_HEADS, 4 * HEAD_DIM, requires_grad=True)
    query, key, value = fused.split([2 * HEAD_DIM, HEAD_DIM, HEAD_DIM], dim=-1)
    query = query.unflatten(-1, (2, -1)).flatten(2, 3)
    result = _attend_by_kv_head(query, key, value, scale=None)
    expected = written_out(query, key, value)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(result)
    (gradient,) = torch.autograd.grad((result * weights).sum(), fused, retain_graph=True)
    (expected,) = torch.autograd.grad((expected * weights).sum(), fused)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
