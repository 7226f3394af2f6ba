"""Whatever layout a plan asks for, compiling answers with findings or with a whole run plan."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from planner_facts import QWEN_7B, TINY, facts, plan

from gkdplan.experts import MoeShape
from gkdplan.planner.compiler import compile_plan
from gkdplan.runplan.codec import decode, encode
from gkdplan.spec.values import LARGEST_COUNT

EXPERTS = MoeShape(
    num_experts=8, num_experts_per_token=2, expert_ffn_hidden_size=48, shared_ffn_hidden_size=32
)
DEEP = replace(TINY, num_layers=12, num_attention_heads=12, num_kv_heads=4, ffn_hidden_size=96)
MIXED = replace(DEEP, moe=replace(EXPERTS, dense_layers=(0, 1, 2, 7)))
SHAPES = st.sampled_from([TINY, DEEP, replace(DEEP, moe=EXPERTS), MIXED, QWEN_7B])

COUNTS = st.one_of(
    st.sampled_from([1, 1, 2, 2, 3, 4, 6, 8]),
    st.integers(1, 64),
    st.sampled_from([2**20, LARGEST_COUNT - 1, LARGEST_COUNT]),
)


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the keys of a table."""
    return st.fixed_dictionaries({}, optional=keys)


PARALLEL = some(
    tensor=COUNTS,
    sequence=st.booleans(),
    pipeline=COUNTS,
    virtual_pipeline=COUNTS,
    first_stage_layers=COUNTS,
    last_stage_layers=COUNTS,
    stage_layers=st.lists(COUNTS, min_size=1, max_size=8).map(tuple),
    context=COUNTS,
    expert=COUNTS,
    expert_tensor=COUNTS,
)
RECOMPUTE = some(
    granularity=st.sampled_from(["none", "selective", "full"]),
    method=st.sampled_from(["uniform", "block"]),
    num_layers=COUNTS,
    modules=st.lists(st.sampled_from(["mlp", "moe", "core_attn", "other"])).map(tuple),
)
PLANS = st.fixed_dictionaries(
    {
        "cluster": some(
            device=st.sampled_from(["cpu", "h100-80gb"]),
            num_nodes=COUNTS,
            devices_per_node=COUNTS,
        ),
        "student": some(parallel=PARALLEL, recompute=RECOMPUTE),
        "teacher": some(parallel=PARALLEL, offload=st.sampled_from(["none", "cpu"])),
        "batch": some(micro=COUNTS, **{"global": COUNTS}),
        "data": some(max_length=COUNTS),
        "generation": some(engine=st.sampled_from(["megatron", "none"])),
        "distill": some(payload=st.sampled_from(["hidden", "logits"]), seq_kd=st.booleans()),
    }
)
DEGREES = st.sampled_from([1, 1, 2, 3, 4])
POSSIBLE = st.fixed_dictionaries(
    {
        "tensor": DEGREES,
        "pipeline": DEGREES,
        "virtual_pipeline": st.sampled_from([1, 1, 3]),
        "context": DEGREES,
        "expert": st.sampled_from([1, 1, 2, 4]),
    }
)
"""Degrees that often divide, so that a good share of plans is priced."""


@settings(max_examples=400)
@given(PLANS, SHAPES, SHAPES)
def test_no_layout_makes_compiling_raise(tables, student, teacher):
    device = tables["cluster"].get("device", "cpu")
    compilation = compile_plan(
        plan(**tables), facts(student=student, teacher=teacher, device=device), "test"
    )
    if compilation.run_plan is None:
        assert any(finding.severity == "error" for finding in compilation.diagnostics)


@settings(max_examples=150)
@given(POSSIBLE, RECOMPUTE, st.sampled_from([DEEP, replace(DEEP, moe=EXPERTS)]))
def test_an_accepted_layout_has_every_layer_in_one_place(axes, recompute, shape):
    tables = {
        "cluster": {"devices_per_node": 48},
        "student": {"parallel": axes, "recompute": recompute},
        "batch": {"micro": 1, "global": 48},
    }
    run_plan = compile_plan(plan(**tables), facts(student=shape, teacher=shape), "test").run_plan
    if run_plan is None:
        return
    assert decode(encode(run_plan)) == run_plan
    for model in (run_plan.models.student, run_plan.models.teacher):
        assert len(model.stage_layers) == axes["pipeline"]
        assert {len(chunks) for chunks in model.stage_layers} == {axes["virtual_pipeline"]}
        assert sum(sum(chunks) for chunks in model.stage_layers) == shape.num_layers
    covered = [run for rank_class in run_plan.layout.classes for run in rank_class.ranks]
    assert sorted(covered)[0][0] == 0
    assert sum(end - start for start, end in covered) == 48
