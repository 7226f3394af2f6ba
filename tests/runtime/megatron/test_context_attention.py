"""Attention over the context axis against attention of whole rows, forward and backward.

Legend: T positions of a row, B rows, N query heads, G kv heads, D head size.
"""

import torch
from gloo_ranks import run_on_ranks
from tiny_models import hidden_states, plan_of, start_mesh
from torch.nn.functional import scaled_dot_product_attention

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.data.batch import RowShare, row_share
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.context_attention import ContextAttention
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.megatron.weights import draw_weights

T, B, N, G, D = 16, 3, 6, 2, 8


def test_two_ranks_attend_as_one():
    run_on_ranks(_attends_as_one, 2)


def _attends_as_one() -> None:
    mesh = start_mesh(AxisDegrees(tensor=1, sequence=False, data=1, context=2))
    torch.manual_seed(5)
    whole = [torch.randn(T, B, heads, D, dtype=torch.float64) for heads in (N, G, G)]
    weights = torch.randn(T, B, N, D, dtype=torch.float64)
    here = RowShare(mesh.context_rank, mesh.context_size, 4).places(T)

    expected = [x.clone().requires_grad_() for x in whole]
    result = _whole_rows(*expected)
    (result * weights).sum().backward()

    mine = [x[here].float().requires_grad_() for x in whole]
    group = torch.distributed.group.WORLD
    share = ContextAttention.apply(*mine, None, group)
    (share * weights[here].float()).sum().backward()
    torch.testing.assert_close(share.double(), result[here], rtol=1e-5, atol=1e-5)
    for ours, reference in zip(mine, expected, strict=True):
        torch.testing.assert_close(ours.grad.double(), reference.grad[here], rtol=1e-4, atol=1e-5)


def test_two_ranks_give_the_hidden_states_of_one():
    run_on_ranks(_hidden_states_of_one, 2)


@torch.no_grad()
def _hidden_states_of_one() -> None:
    plan = plan_of("qwen3", 1)
    tokens_BS = torch.arange(B * T).view(B, T)
    alone, shared = (AxisDegrees(tensor=1, sequence=False, data=2 // c, context=c) for c in (1, 2))
    results = []
    for degrees in (alone, shared):
        mesh = start_mesh(degrees)
        model = build_model(plan, degrees, mesh, trainable=False)
        draw_weights([model], plan, mesh, seed=3)
        here = row_share(degrees, mesh.context_rank).places(T)
        with platform.megatron_calls():
            results.append(hidden_states(model, tokens_BS[:, here]))
    torch.testing.assert_close(results[1], results[0][:, here], rtol=1e-4, atol=1e-5)


def _whole_rows(*qkv: torch.Tensor) -> torch.Tensor:
    heads_first = (x.permute(1, 2, 0, 3) for x in qkv)
    context = scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
    return context.permute(2, 0, 1, 3)
