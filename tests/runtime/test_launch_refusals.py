"""What is planned and cannot be run yet is refused before a process starts, by the plan's keys."""

from dataclasses import replace
from typing import Any

import pytest

from gkdplan.diagnostics import UserError
from gkdplan.runplan.model import LoraPlan, RunPlan
from gkdplan.runtime.launch import check_machine
from gkdplan.vocab import Engine, Tier


def refused(run_plan: RunPlan) -> list[str | None]:
    with pytest.raises(UserError) as refusal:
        check_machine(run_plan)
    assert {found.code for found in refusal.value.diagnostics} == {"GK591"}
    return [found.path for found in refusal.value.diagnostics]


def with_student(run_plan: RunPlan, **changes: Any) -> RunPlan:
    student = replace(run_plan.models.student, **changes)
    return replace(run_plan, models=replace(run_plan.models, student=student))


def test_what_this_executor_runs_is_not_refused(run_plan):
    check_machine(run_plan)


def test_a_teacher_behind_a_server_is_refused(run_plan):
    teacher = replace(run_plan.models.teacher, server_url="http://127.0.0.1:8000")
    models = replace(run_plan.models, teacher=teacher)
    assert refused(replace(run_plan, models=models)) == ["teacher.server"]


def test_an_optimizer_on_the_host_is_refused(run_plan):
    optimizer = replace(run_plan.optimizer, offload=Tier.HOST)
    assert refused(replace(run_plan, optimizer=optimizer)) == ["optimizer.offload"]


def test_adapters_are_refused(run_plan):
    lora = LoraPlan(8, 32.0, 0.0, ("q_proj",), 1)
    assert refused(with_student(run_plan, lora=lora)) == ["student.tuning"]


def test_vllm_is_refused_also_on_a_server(run_plan):
    sampling = replace(run_plan.sampling, engine=Engine.VLLM, server_url="http://host:8000")
    assert refused(replace(run_plan, sampling=sampling)) == ["generation.engine"]


def test_everything_comes_at_once(run_plan):
    several = replace(run_plan, layout=replace(run_plan.layout, num_nodes=2))
    several = with_student(several, lora=LoraPlan(8, 32.0, 0.0, ("q_proj",), 1))
    assert refused(several) == ["cluster.num_nodes", "student.tuning"]
