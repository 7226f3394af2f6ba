"""What is planned and cannot be run yet is refused before a process starts, by the plan's keys."""

from dataclasses import replace
from typing import Any

import pytest

from gkdplan.diagnostics import UserError
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import LoraPlan, Recompute, RunPlan
from gkdplan.runtime.launch import check_machine
from gkdplan.shape import MoeShape
from gkdplan.vocab import Engine, Tier

EXPERTS = MoeShape(num_experts=4, num_experts_per_token=2, expert_ffn_hidden_size=64)


def refused(run_plan: RunPlan) -> list[str | None]:
    with pytest.raises(UserError) as refusal:
        check_machine(run_plan)
    assert {found.code for found in refusal.value.diagnostics} == {"GK591"}
    return [found.path for found in refusal.value.diagnostics]


def with_layout(run_plan: RunPlan, **changes: Any) -> RunPlan:
    return replace(run_plan, layout=replace(run_plan.layout, **changes))


def with_student(run_plan: RunPlan, **changes: Any) -> RunPlan:
    student = replace(run_plan.models.student, **changes)
    return replace(run_plan, models=replace(run_plan.models, student=student))


def test_what_this_executor_runs_is_not_refused(run_plan):
    check_machine(run_plan)


@pytest.mark.parametrize(
    "axis", ["pipeline", "virtual_pipeline", "context", "expert", "expert_tensor"]
)
def test_an_axis_that_is_not_run_is_named_once(run_plan, axis):
    degrees = replace(run_plan.layout.student, **{axis: 2})
    both = with_layout(run_plan, student=degrees, teacher=degrees)
    assert refused(both) == [f"student.parallel.{axis}"]


def test_a_teacher_of_another_layout_is_refused(run_plan):
    other = AxisDegrees(tensor=1, sequence=False, data=1, pipeline=2)
    assert refused(with_layout(run_plan, teacher=other)) == [
        "teacher.parallel.pipeline",
        "teacher.parallel",
    ]


def test_an_optimizer_on_the_host_is_refused(run_plan):
    optimizer = replace(run_plan.optimizer, offload=Tier.HOST)
    assert refused(replace(run_plan, optimizer=optimizer)) == ["optimizer.offload"]


def test_adapters_and_models_with_experts_are_refused(run_plan):
    lora = LoraPlan(8, 32.0, 0.0, ("q_proj",), 1)
    assert refused(with_student(run_plan, lora=lora)) == ["student.tuning"]
    shape = replace(run_plan.models.student.shape, moe=EXPERTS)
    assert refused(with_student(run_plan, shape=shape)) == ["student.model"]
    teacher = replace(run_plan.models.teacher, shape=shape)
    models = replace(run_plan.models, teacher=teacher)
    assert refused(replace(run_plan, models=models)) == ["teacher.model"]


def test_vllm_is_refused_also_on_a_server(run_plan):
    sampling = replace(run_plan.sampling, engine=Engine.VLLM, server_url="http://host:8000")
    assert refused(replace(run_plan, sampling=sampling)) == ["generation.engine"]


def test_everything_comes_at_once(run_plan):
    several = with_layout(run_plan, num_nodes=2)
    several = with_student(several, recompute=Recompute("full", "uniform", 1))
    shape = replace(several.models.student.shape, moe=EXPERTS)
    several = with_student(several, shape=shape)
    assert refused(several) == [
        "cluster.num_nodes",
        "student.model",
        "student.recompute.granularity",
    ]
