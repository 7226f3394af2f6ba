"""Attention of bounded, scaled and windowed scores against softmax attention in float64.

Legend: S positions, T of all ranks, B rows, N query heads, G kv heads, D head size.
"""

import itertools

import pytest
import torch
from gloo_ranks import run_on_ranks
from tiny_models import start_mesh
from torch import Tensor

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.data.batch import RowShare
from gkdplan.runtime.megatron import blocked_attention
from gkdplan.runtime.megatron.attend import attend
from gkdplan.runtime.megatron.scores import Scores

T, B, N, G, D = 24, 2, 6, 2, 8
SCORES = [
    Scores(scale, softcap, window)
    for scale, softcap, window in itertools.product((None, 0.7), (None, 1.5), (None, 1, 5, 23))
]


def written_out(query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
    """Query head n reads kv head n // (N / G); position s sees those up to s, or the last ones."""
    key, value = (x.repeat_interleave(N // G, dim=2) for x in (key, value))
    products = torch.einsum("sbnd,tbnd->bnst", query, key)
    logits = products * (D**-0.5 if scores.scale is None else scores.scale)
    if scores.softcap is not None:
        logits = scores.softcap * (logits / scores.softcap).tanh()
    positions = torch.arange(len(query))
    ahead = positions[:, None] - positions
    hidden = ahead < 0
    if scores.window is not None:
        hidden |= ahead >= scores.window
    weights = logits.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2)


def drawn(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(11)
    return [torch.randn(T, B, heads, D, dtype=dtype).requires_grad_() for heads in (N, G, G)]


@pytest.fixture(params=[2**22, 4 * T * B * N, 1], ids=["one block", "blocks of 4", "of 1"])
def block_scores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_attention, "BLOCK_SCORES", request.param)


@pytest.mark.usefixtures("block_scores")
@pytest.mark.parametrize("scores", SCORES, ids=str)
def test_output_and_gradients_are_those_of_the_formula(scores: Scores) -> None:
    tensors, references = drawn(), drawn()
    weights = torch.randn(T, B, N * D, dtype=torch.float64)
    result, expected = attend(*tensors, scores), written_out(*references, scores)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    for tensor, reference in zip(tensors, references, strict=True):
        torch.testing.assert_close(tensor.grad, reference.grad, rtol=1e-10, atol=1e-12)


def test_bf16_is_worked_on_in_float32() -> None:
    scores = Scores(softcap=1.5, window=5)
    narrow = [x.detach().bfloat16().requires_grad_() for x in drawn()]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    weights = torch.randn(T, B, N * D).bfloat16()
    result, expected = attend(*narrow, scores), written_out(*wide, scores)
    torch.testing.assert_close(result, expected.bfloat16(), rtol=2**-7, atol=1e-3)
    (result * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for tensor, reference in zip(narrow, wide, strict=True):
        torch.testing.assert_close(tensor.grad.double(), reference.grad, rtol=2**-6, atol=2e-2)


def test_what_is_kept_is_what_a_fused_kernel_keeps() -> None:
    """Query, key, value, output and one float32 a query: no score."""
    tensors = drawn(torch.float32)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(*tensors, Scores(softcap=1.5, window=5))
    heads = N + G + G + N
    assert sum(kept.values()) == 4 * T * B * (heads * D + N)


def test_two_ranks_attend_as_one() -> None:
    run_on_ranks(_attends_as_one, 2)


def _attends_as_one() -> None:
    mesh = start_mesh(AxisDegrees(tensor=1, sequence=False, data=1, context=2))
    here = RowShare(mesh.context_rank, mesh.context_size, 4).places(T)
    weights = torch.randn(T, B, N * D, generator=torch.Generator().manual_seed(3)).double()
    for scores in SCORES:
        references = drawn()
        expected = written_out(*references, scores)
        (expected * weights).sum().backward()
        mine = [x.detach()[here].float().requires_grad_() for x in references]
        share = attend(*mine, scores, torch.distributed.group.WORLD)
        (share * weights[here].float()).sum().backward()
        torch.testing.assert_close(share.double(), expected[here], rtol=1e-5, atol=1e-5)
        for ours, reference in zip(mine, references, strict=True):
            grads = ours.grad.double(), reference.grad[here]
            torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5, msg=f"{scores}")
