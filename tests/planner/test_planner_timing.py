"""Predicted seconds: what must hold of any honest model of time, and figures derived by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_facts import QWEN_3B, QWEN_7B, SMOLLM2, facts, plan

from gkdplan.attention import PLAIN_ATTENTION, AttentionShape
from gkdplan.experts import MoeShape
from gkdplan.facts.devices import DEVICES
from gkdplan.planner.draft import Draft
from gkdplan.planner.drafting import draft
from gkdplan.planner.pricing import price
from gkdplan.planner.timing.assumptions import LIKELY, OUTLOOKS
from gkdplan.planner.timing.flops import (
    active_elements,
    attention_flops,
    head_flops,
    layer_flops,
)
from gkdplan.planner.timing.machine import Machine
from gkdplan.planner.timing.prediction import likely_step_s, predict
from gkdplan.planner.timing.student import student_seconds
from gkdplan.planner.timing.teacher import teacher_seconds
from gkdplan.planner.timing.terms import (
    BUBBLE,
    COMPUTE,
    CONTEXT,
    DATA,
    EXPERT,
    LOSS,
    PAYLOAD,
    RECOMPUTE,
    TENSOR,
)
from gkdplan.planner.timing.update import optimizer_seconds
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import BatchPlan
from gkdplan.runplan.models import Recompute
from gkdplan.vocab import Dtype, Phase

H100 = DEVICES["h100-80gb"]
MOE = replace(SMOLLM2, moe=MoeShape(8, 2, 512))


def decided(**tables) -> Draft:
    """The 7B and 3B models on eight H100s, tensor 1, with the tables laid over it."""
    base = {
        "cluster": {"device": "h100-80gb", "devices_per_node": 8},
        "student": {"model": "student", "dtype": "bf16"},
        "generation": {"max_completion_length": 512},
        "data": {"train": ("rows.jsonl",), "max_length": 1536},
        "batch": {"micro": 1, "global": 64},
    }
    return draft(plan(**{**base, **tables}), facts(QWEN_3B, QWEN_7B, "h100-80gb"))


def pipelined(pipeline: int, num_micro_batches: int, chunks: int = 1) -> Draft:
    """The 3B student's 36 layers in equal stages on eight ranks."""
    base = decided()
    degrees = AxisDegrees(1, False, 8 // pipeline, pipeline=pipeline, virtual_pipeline=chunks)
    stage = (36 // pipeline // chunks,) * chunks
    student = replace(base.models.student, stage_layers=(stage,) * pipeline)
    return replace(
        base,
        models=replace(base.models, student=student),
        layout=replace(base.layout, student=degrees),
        batch=BatchPlan(1, num_micro_batches * degrees.data, num_micro_batches),
    )


def machine(devices_per_node: int = 8, device=H100) -> Machine:
    return Machine(device, devices_per_node, OUTLOOKS[device.backend][LIKELY])


def student(a_draft: Draft, on: Machine | None = None):
    return student_seconds(a_draft, on or machine())


@pytest.mark.parametrize("shape", [SMOLLM2, QWEN_3B, QWEN_7B])
def test_the_flops_of_one_device_are_two_for_each_parameter_and_token(shape):
    """Counted from the parameters of a layer less its vectors, and scores token by token."""
    vectors = 2 * shape.hidden_size + (shape.query_size + 2 * shape.kv_size) * shape.qkv_bias
    matrices = shape.num_parameters_per_layer - vectors
    scores = sum(2 * 2 * shape.query_size * position for position in range(1, 257))
    flops = layer_flops(shape, 256, 256)
    assert flops == pytest.approx(2 * 256 * matrices + scores, rel=1e-3)
    assert head_flops(shape, 3, shape.vocab_size) == 2 * 3 * shape.hidden_size * shape.vocab_size


def test_a_window_costs_the_scores_that_it_leaves():
    """10 positions see 10 x 10 / 2 = 50 together, of a window of 4 but 10 x (4 - 16 / 20) = 32: so
    do two of the four layers."""
    window = AttentionShape(window=4, sliding_layers=(0, 2))
    shape = replace(SMOLLM2, num_layers=4, attention=window)
    expected = 4 * shape.query_size * (32 + 50) / 2
    assert attention_flops(shape, 10, 10) == pytest.approx(expected, rel=1e-12)
    assert attention_flops(shape, 4, 4) == attention_flops(
        replace(shape, attention=PLAIN_ATTENTION), 4, 4
    )


def test_a_token_meets_the_router_and_its_own_experts_only():
    attention = 2 * 576 * (576 + 192)
    assert active_elements(MOE) == attention + 8 * 576 + 2 * 3 * 576 * 512


def test_one_h100_takes_the_seconds_that_arithmetic_gives():
    """3B: 36 layers of 77,066,240 elements and the causal half of attention, 2,048 tokens, three
    forwards, at 42% of 989 TFLOP/s."""
    a_layer = 2 * 2048 * (2048 + 256) + 3 * 2048 * 11008
    flops = 36 * 2048 * (2 * a_layer + 2 * 2048 * 2048)
    seconds = 8 * 3 * flops / (0.42 * 989e12)  # 64 rows on 8 data ranks
    assert student(decided())[COMPUTE] == pytest.approx(seconds, rel=1e-12)


@given(st.sampled_from([2, 3, 4, 6]), st.integers(1, 64))
def test_the_bubble_is_a_smaller_share_of_more_micro_batches(pipeline, num_micro_batches):
    def share(num: int) -> float:
        terms = student(pipelined(pipeline, num))
        working = sum(s for name, s in terms.items() if name not in (BUBBLE, DATA))
        return terms[BUBBLE] / working

    assert share(num_micro_batches) == pytest.approx((pipeline - 1) / num_micro_batches)
    assert share(num_micro_batches + 1) < share(num_micro_batches)


def test_virtual_stages_divide_the_bubble():
    one, three = (student(pipelined(4, 8, chunks)) for chunks in (1, 3))
    assert three[BUBBLE] < one[BUBBLE] / 2


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]))
def test_more_devices_never_raise_compute(tensor, num_devices, factor):
    def compute(devices: int) -> float:
        degree = min(tensor, devices)
        terms = student(
            decided(
                cluster={"device": "h100-80gb", "devices_per_node": devices},
                student={"model": "student", "dtype": "bf16", "parallel": {"tensor": degree}},
            )
        )
        return terms[COMPUTE] + terms[LOSS]

    assert compute(num_devices * factor) <= compute(num_devices) * (1 + 1e-12)


def test_recompute_adds_a_forward_and_nothing_else_is_faster():
    base = decided()
    full = replace(base.models.student, recompute=Recompute("full", "uniform", 1))
    again = student(replace(base, models=replace(base.models, student=full)))
    assert again[RECOMPUTE] == pytest.approx(again[COMPUTE] / 3)
    assert student(base)[RECOMPUTE] == 0


def test_of_block_recompute_only_the_first_layers_of_a_stage_are_made_again():
    base = decided()
    block = replace(base.models.student, recompute=Recompute("full", "block", 9))
    again = student(replace(base, models=replace(base.models, student=block)))
    assert again[RECOMPUTE] == pytest.approx(again[COMPUTE] / 3 * 9 / 36)


def test_tensor_ranks_on_two_nodes_wait_for_the_network():
    parallel = {"model": "student", "dtype": "bf16", "parallel": {"tensor": 2}}
    a_draft = decided(student=parallel)
    on_a_node, on_two = student(a_draft, machine(8))[TENSOR], student(a_draft, machine(1))[TENSOR]
    assert on_two > 4 * on_a_node  # 50 against 450 GB/s, and latencies
    assert student(decided())[TENSOR] == 0


def test_gradients_wait_for_the_ring_of_the_data_axis():
    """3B parameters in float32, 7/8 of them sent at 70% of 450 GB/s, and one latency."""
    elements = 36 * QWEN_3B.num_parameters_per_layer + 152064 * 2048
    seconds = 4 * elements * 7 / 8 / (0.7 * 450e9) + 20e-6
    assert student(decided())[DATA] == pytest.approx(seconds, rel=1e-12)
    single = decided(cluster={"device": "h100-80gb", "devices_per_node": 1})
    assert student(single)[DATA] == 0


def test_a_context_ring_is_hidden_by_long_rows_and_seen_in_short_ones():
    def ring(tokens: int) -> float:
        base = decided(data={"train": ("rows.jsonl",), "max_length": tokens - 512})
        degrees = AxisDegrees(1, False, 1, context=8)
        return student(replace(base, layout=replace(base.layout, student=degrees)), machine(1))[
            CONTEXT
        ]

    assert ring(1024) > 0
    assert ring(32768) == 0


def test_experts_exchange_tokens_only_over_an_expert_axis():
    base = decided()
    model = replace(base.models.student, shape=MOE, stage_layers=((30,),))
    of_experts = replace(base, models=replace(base.models, student=model))
    spread = replace(base.layout, student=AxisDegrees(1, False, 8, expert=8))
    assert student(of_experts)[EXPERT] == 0
    assert student(replace(of_experts, layout=spread))[EXPERT] > 0


def test_the_optimizer_works_on_its_share_only():
    whole = decided(optimizer={"distributed": False})
    assert optimizer_seconds(decided(), machine())[DATA] > 0
    assert optimizer_seconds(whole, machine())[DATA] == 0
    update = [optimizer_seconds(d, machine())["update"] for d in (decided(), whole)]
    assert update[0] < update[1]


ADAPTED = {"model": "student", "dtype": "bf16", "tuning": "lora", "lora": {"rank": 8}}


def test_a_frozen_base_has_no_gradients_of_weights():
    """As `test_one_h100_takes_the_seconds_that_arithmetic_gives`: two passes through the matrices,
    three through the attention, three through rank 8 adapters of all seven projections."""
    hidden, kv, ffn = 2048, 256, 11008
    a_layer = 2 * hidden * (hidden + kv) + 3 * hidden * ffn
    adapters = 8 * (2 * (hidden + hidden) + 2 * (kv + hidden) + 3 * (hidden + ffn))
    a_token = 2 * 2 * a_layer + 3 * 2 * hidden * 2048 + 3 * 2 * adapters
    seconds = 8 * 36 * 2048 * a_token / (0.42 * 989e12)
    lora = {**ADAPTED["lora"], "targets": ("all-linear",)}
    terms = student(decided(student={**ADAPTED, "lora": lora}))
    assert terms[COMPUTE] == pytest.approx(seconds, rel=1e-12)
    assert terms[LOSS] < student(decided())[LOSS]


def test_adapters_alone_are_reduced_updated_and_gathered():
    full, adapted = decided(), decided(student=ADAPTED)
    lora = adapted.models.student.lora
    assert lora is not None
    seconds = 4 * lora.num_parameters * 7 / 8 / (0.7 * 450e9) + 20e-6
    assert student(adapted)[DATA] == pytest.approx(seconds, rel=1e-12)
    terms, of_full = (optimizer_seconds(d, machine()) for d in (adapted, full))
    share = lora.num_parameters / (36 * QWEN_3B.num_parameters_per_layer + 152064 * 2048)
    assert terms["update"] == pytest.approx(share * of_full["update"])
    assert 0 < terms[DATA] < of_full[DATA]


def test_a_payload_travels_where_the_layouts_differ():
    """8 rows of 512 response tokens a rank, 3,584 bf16 numbers each, at 70% of 450 GB/s, and the
    latency of 8 micro-batches; with two stages of the teacher half of the ranks send all of it."""
    base = decided()
    assert PAYLOAD not in teacher_seconds(base, machine())

    def exchange(teacher: AxisDegrees, on: Machine) -> float:
        return teacher_seconds(replace(base, layout=replace(base.layout, teacher=teacher)), on)[
            PAYLOAD
        ]

    sent_s = 8 * 512 * 3584 * 2 / (0.7 * 450e9)
    wide = AxisDegrees(2, True, 4)
    assert exchange(wide, machine()) == pytest.approx(sent_s + 8 * 20e-6)
    assert exchange(wide, machine(2)) == pytest.approx(sent_s + 8 * 20e-6)  # pairs share rows
    assert exchange(wide, machine(1)) > 4 * sent_s
    stages = replace(base.models.teacher, stage_layers=((14,), (14,)))
    base = replace(base, models=replace(base.models, teacher=stages))
    two = AxisDegrees(1, False, 4, pipeline=2)
    assert exchange(two, machine()) == pytest.approx(2 * sent_s + 8 * 20e-6)


def test_a_teacher_on_a_mesh_of_its_own_has_its_own_micro_batches():
    base = decided(batch={"micro": 4, "global": 64})
    spread = replace(base.layout, teacher=AxisDegrees(8, True, 1))
    compute = [teacher_seconds(d, machine())[COMPUTE] for d in (base, replace(base, layout=spread))]
    assert compute[0] == pytest.approx(compute[1])  # 8 x as many of 1/8 the size


def priced(**tables):
    base = {
        "cluster": {"device": "h100-80gb", "devices_per_node": 2},
        "student": {"model": "student", "dtype": "bf16"},
        "batch": {"micro": 2, "global": 8},
    }
    known = facts(QWEN_3B, QWEN_7B, "h100-80gb")
    return price(plan(**{**base, **tables}), known)


def test_a_range_holds_what_is_likely_and_the_step_is_the_sum_of_its_phases():
    result = priced(generation={"engine": "none"})
    timing = predict(result.draft, result.moves, H100)
    assert set(timing.phases) == {Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER}
    for seconds in (*timing.phases.values(), timing.step):
        assert 0 < seconds.low < seconds.likely < seconds.high
    assert timing.step.likely == pytest.approx(sum(s.likely for s in timing.phases.values()))
    likely = likely_step_s(result.draft, result.moves, H100)
    assert timing.step.likely == pytest.approx(likely)
    assert timing.sampled_share == 0
    for phase, seconds in timing.phases.items():
        terms = sum(term.seconds for term in timing.terms if term.phase is phase)
        assert terms == pytest.approx(seconds.likely)


def test_sampling_counts_by_its_share_of_the_steps():
    always = priced(distill={"lmbda": 1.0}, generation={"max_completion_length": 64})
    half = priced(distill={"lmbda": 0.5}, generation={"max_completion_length": 64})
    one, other = (predict(p.draft, p.moves, H100) for p in (always, half))
    assert one.phases == other.phases
    generate = one.phases[Phase.GENERATE].likely
    assert one.step.likely - other.step.likely == pytest.approx(generate / 2)


@pytest.mark.parametrize("prefetch", [False, None])
def test_offload_adds_the_exposed_seconds_of_its_moves(prefetch):
    offload = {"model": "teacher", "offload": "cpu", "prefetch": prefetch}
    stays, moves = priced(), priced(teacher=offload)
    difference = likely_step_s(moves.draft, moves.moves, H100) - likely_step_s(
        stays.draft, stays.moves, H100
    )
    assert difference == pytest.approx(sum(move.exposed_s for move in moves.moves))
    assert difference > 0
    timing = predict(moves.draft, moves.moves, H100)
    (exposed,) = (term for term in timing.terms if term.name == "exposed offload transfers")
    assert exposed.phase is Phase.TEACHER
    assert exposed.seconds == pytest.approx(difference)


def test_all_devices_have_an_outlook_that_gets_worse():
    for device in DEVICES.values():
        favourable, likely, unfavourable = OUTLOOKS[device.backend]
        assert device.network_bandwidth <= device.device_link_bandwidth
        flops = [
            Machine(device, 1, outlook).compute_s(1e12, Dtype.BF16)
            for outlook in (favourable, likely, unfavourable)
        ]
        assert flops == sorted(flops)
