"""Models with experts: their trace against real tensors, and the ledger against their trace."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from gloo_ranks import run_on_ranks
from megatron.core.transformer.moe import router
from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function
from real_step import check_peaks
from trace_grid import compile_configuration
from trace_grid.plan import BLOCK, LORA, SELECTIVE

from gkdplan.planner.draft import draft_of
from gkdplan.planner.memory.activations import layer_bytes
from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.expert_activations import routing_bytes
from gkdplan.planner.memory.fused import TORCH_ON_CPU
from gkdplan.planner.memory.model import rank_model
from gkdplan.planner.memory.rank import rank_of_class
from gkdplan.planner.memory.teacher import body_bytes
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.fake_world import fake_world
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.trace import trace
from gkdplan.runtime.traced_step import build_step
from gkdplan.vocab import Phase

QWEN_1_5, MIXTRAL = "Qwen/Qwen1.5-MoE-A2.7B", "mistralai/Mixtral-8x7B-v0.1"
TINY, BF16 = ("tiny moe", "tiny moe"), {"dtype": "bf16"}
BALANCED = {"tuning": "router_aux_loss_coef = 0.01"}
DIVIDED = {
    "one process, fp32": {},
    "expert 4": {**BF16, "data": 4, "parallel": "expert = 4"},
    "tensor 2 expert 2 expert tensor 2": {**BF16, "tensor": 2, "data": 2}
    | {"parallel": "expert = 2\nexpert_tensor = 2"},
}
ADAPTED = {"tuning": LORA.format('targets = ["q_proj", "k_proj", "v_proj", "o_proj"]')}
"""Their attention; experts have no adapters."""
OF_LATENTS = {"tuning": LORA.format('targets = ["q_a_proj", "kv_b_proj"]')}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("experts")


@pytest.mark.parametrize("tuned", [{}, ADAPTED], ids=["full", "lora"])
@pytest.mark.parametrize("layout", DIVIDED)
@pytest.mark.parametrize("model", ["tiny moe", f"2 of {QWEN_1_5}"])
def test_parameters_of_experts_have_megatrons_names_sizes_order_and_buffer(
    model, layout, tuned, home
):
    run_plan = compile_configuration(home, models=(model, model), **DIVIDED[layout], **tuned)
    student, degrees = run_plan.models.student, run_plan.layout.student
    with fake_world(run_plan.layout, 0, max_nonzero=1) as mesh:
        built = build_model(student, degrees, mesh, trainable=True)
        found = [(n, p.numel(), not getattr(p, "allreduce", True)) for n, p in _named(built)]
    (expected,) = rank_model(student, degrees, TORCH_ON_CPU, stage=0).chunks
    assert found == [(p.name, p.num_elements, p.is_divided) for p in expected]


@pytest.mark.parametrize("tuned", [{}, OF_LATENTS], ids=["full", "lora"])
def test_numbers_of_a_choice_are_counted_in_float32_beside_bf16(tuned, home):
    run_plan = compile_configuration(home, models=("tiny latents",) * 2, **BF16, **tuned)
    with fake_world(run_plan.layout, 0, max_nonzero=1) as mesh:
        built = [
            build_model(model, degrees, mesh, trainable=trainable)
            for model, degrees, trainable in (
                (run_plan.models.student, run_plan.layout.student, True),
                (run_plan.models.teacher, run_plan.layout.teacher, False),
            )
        ]
    student, teacher = (
        sum(p.nbytes for p in model.parameters() if not (learns and p.requires_grad))
        for learns, model in zip((True, False), built, strict=True)
    )
    (ranks,) = run_plan.layout.classes
    rank = rank_of_class(draft_of(run_plan), ranks)
    assert rank.student.model.frozen_bytes == student
    head = rank.teacher.model.head_elements * 2
    assert body_bytes(rank) + head == teacher
    assert any(p.dtype is torch.float32 for p in built[1].parameters())


def _named(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return list(model.named_parameters())


@pytest.mark.parametrize("tuned", [{}, ADAPTED, BALANCED], ids=["full", "lora", "balanced"])
@pytest.mark.parametrize("layout", DIVIDED)
@pytest.mark.parametrize("model", [QWEN_1_5, MIXTRAL])
def test_a_layer_of_experts_keeps_exactly_what_the_ledger_says(model, layout, tuned, home):
    """The difference of two depths is one layer, whatever the ends keep."""
    plans = [
        compile_configuration(home, models=(shallow, shallow), **DIVIDED[layout], **tuned)
        for shallow in (f"1 of {model}", f"2 of {model}")
    ]
    one, two = (_bytes_after_forward(plan) for plan in plans)
    share = rank_model(plans[0].models.student, plans[0].layout.student, TORCH_ON_CPU, stage=0)
    layer = layer_bytes(share, Batch(1, 128)) + routing_bytes(share, share.experts, 128)
    assert two - one == layer


def _bytes_after_forward(run_plan: RunPlan) -> int:
    with fake_world(run_plan.layout, 0, max_nonzero=1) as mesh:
        student, degrees = run_plan.models.student, run_plan.layout.student
        model = build_model(student, degrees, mesh, trainable=True)
        meter = LiveBytes(mesh.device)
        for parameter in model.parameters():
            meter.exclude(parameter)
        with meter, platform.megatron_calls():
            places = torch.arange(128).unsqueeze(0)
            padding = places > 100 if student.load_balance else None
            output = model(torch.zeros_like(places), places, None, padding_mask=padding)
            num_bytes = meter.current_bytes
        del output
    return num_bytes


STEPS = {
    "one process": {"num_micro_batches": 2},
    "expert 2, bf16": {**BF16, "data": 2, "parallel": "expert = 2"},
    "pipeline 2, bf16": {**BF16, "pipeline": 2, "num_micro_batches": 3},
    "pipeline 2, a layer of two made again": {"pipeline": 2, "num_micro_batches": 3}
    | {"recompute": BLOCK.format(1)},
    "expert 2, experts and norms made again": {"data": 2, "parallel": "expert = 2"}
    | {"recompute": SELECTIVE.format('"moe", "layernorm"')},
    "expert 2, load balanced, bf16": {**BF16, "data": 2, "parallel": "expert = 2", **BALANCED},
    "pipeline 2, adapters on attention": {"pipeline": 2, "num_micro_batches": 3}
    | {"tuning": LORA.format('targets = ["q_proj", "o_proj"]')},
}


@pytest.mark.parametrize("layout", STEPS)
def test_the_trace_of_experts_equals_a_step_on_real_tensors(layout, home):
    run_plan = compile_configuration(home, models=TINY, **STEPS[layout])
    traced = [{str(phase): n for phase, n in peaks.items()} for peaks in trace(run_plan).values()]
    run_on_ranks(_check_peaks, run_plan.layout.world_size, encode(run_plan), traced)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_rank_whose_optimizer_takes_most_is_traced(dtype, home):
    """Of two that share its state, cut at different places."""
    run_plan = compile_configuration(home, models=TINY, dtype=dtype, data=2)
    (traced,) = trace(run_plan).values()
    peaks = []
    for rank in range(2):
        with fake_world(run_plan.layout, rank, run_plan.objective.chunk_tokens) as mesh:
            step = build_step(run_plan, mesh)
            with step.meter:
                step.warm_up()
                step.run()
            peaks.append(step.peak_bytes[Phase.OPTIMIZER])
    assert peaks[0] != peaks[1]
    assert traced[Phase.OPTIMIZER] == max(peaks)


def _check_peaks(lock: str, traced: list[dict[str, int]]) -> None:
    with patch.object(router, "topk_routing_with_score_function", _experts_in_turn):
        check_peaks(lock, traced)


def _experts_in_turn(
    logits: torch.Tensor, topk: int, **others: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """Megatron's own, with logits that send the first token to the first experts, the next token
    to those that follow."""
    num_tokens, num_experts = logits.shape
    turns = torch.arange(num_tokens * topk).view(num_tokens, topk) % num_experts
    pushed = logits + torch.zeros_like(logits).scatter(1, turns, 1e3)
    return topk_routing_with_score_function(pushed, topk, **others)
