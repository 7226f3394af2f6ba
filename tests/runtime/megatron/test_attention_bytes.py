"""What attention of bounded and windowed scores keeps and passes, as the ledger says.

Legend: S positions, B rows, N query heads, G kv heads, D head size.
"""

from dataclasses import replace

import pytest
import torch
from gloo_ranks import run_on_ranks
from test_attention_models import ONE, SHAPES, TENSOR, _plan
from tiny_models import deep, saved_bytes, start_mesh

from gkdplan.attention import AttentionShape
from gkdplan.planner.memory import blocked_attention as planned
from gkdplan.planner.memory.activations import layer_bytes
from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.fused import TORCH_ON_CPU
from gkdplan.planner.memory.model import rank_model
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron import blocked_attention
from gkdplan.runtime.megatron.attend import attend
from gkdplan.runtime.megatron.scores import scores_of
from gkdplan.vocab import Dtype

BATCH = Batch(rows=3, tokens=64)


def test_the_blocks_of_the_runtime_are_those_that_are_priced():
    assert planned.BLOCK_SCORES == blocked_attention.BLOCK_SCORES


@pytest.mark.parametrize("degrees", [ONE, TENSOR], ids=["one", "tensor"])
def test_a_layer_keeps_exactly_what_the_ledger_says(degrees):
    run_on_ranks(_check_layers, degrees.tensor, degrees)


def _check_layers(degrees: AxisDegrees) -> None:
    """Layers 2 and 3 of four; of the shape whose layer 3 is not rotated layer 2."""
    mesh = start_mesh(degrees)
    for name in SHAPES:
        for dtype in Dtype:
            plan = replace(_plan(name, degrees), dtype=dtype)
            two, three = (saved_bytes(deep(plan, n), degrees, mesh, BATCH) for n in (2, 3))
            of_a_layer = layer_bytes(rank_model(plan, degrees, TORCH_ON_CPU, stage=0), BATCH)
            assert three - two == of_a_layer, f"{name}, {dtype}"


@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.BF16])
@pytest.mark.parametrize(
    "attention",
    [
        AttentionShape(softcap=2.0),
        AttentionShape(window=40, sliding_layers=(0, 1, 2, 3)),
        AttentionShape(softcap=2.0, window=40, sliding_layers=(0, 1, 2, 3)),
    ],
    ids=["softcap", "window", "both"],
)
@pytest.mark.parametrize("block_scores", [2**16, 2**22])
def test_what_passes_is_what_the_ledger_says(attention, dtype, block_scores, monkeypatch):
    """To 5%, above the inputs in the forward and above what it keeps in the backward."""
    for module in (planned, blocked_attention):
        monkeypatch.setattr(module, "BLOCK_SCORES", block_scores)
    plan = replace(_plan("window", ONE), dtype=dtype)
    plan = replace(plan, shape=replace(plan.shape, attention=attention))
    model = rank_model(plan, ONE, TORCH_ON_CPU, stage=0)
    rows, tokens, scores = 3, 200, scores_of(attention, 0)
    torch_dtype = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16}[dtype]
    heads = (plan.shape.num_attention_heads, *(plan.shape.num_kv_heads,) * 2)
    inputs = [
        torch.randn(tokens, rows, num, 8, dtype=torch_dtype).requires_grad_() for num in heads
    ]
    live = LiveBytes(torch.device("cpu"))
    live.adopt(inputs)
    with live:
        live.mark_phase()
        before = live.current_bytes
        output = attend(*inputs, scores)
        forward, kept = live.peak_bytes - before, live.current_bytes - before
        gradient = torch.ones_like(output)
        live.mark_phase()
        before = live.current_bytes
        torch.autograd.grad(output, inputs, gradient)
        backward = live.peak_bytes - before
    assert forward == pytest.approx(kept + planned.forward_bytes(model, rows, tokens), rel=0.05)
    assert backward == pytest.approx(planned.backward_bytes(model, rows, tokens), rel=0.05)
