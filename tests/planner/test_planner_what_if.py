from dataclasses import replace

import pytest
from planner_facts import QWEN_3B, QWEN_7B, facts, plan

from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.what_if import peak_differences
from gkdplan.runplan.model import RunPlan

FACTS = facts(QWEN_3B, QWEN_7B, "h100-80gb")
BASE = {
    "cluster": {"device": "h100-80gb", "devices_per_node": 4},
    "student": {"model": "student", "dtype": "bf16"},
    "generation": {"max_completion_length": 256},
    "batch": {"micro": 4, "global": 16},
}
ALONE = {
    "batch": {"batch": {"micro": 2}},
    "models.teacher.offload": {"teacher": {"model": "teacher", "offload": "cpu"}},
    "optimizer.distributed": {"optimizer": {"distributed": False}},
    "objective.payload": {"distill": {"payload": "logits"}},
    "sampling.max_completion_length": {"generation": {"max_completion_length": 128}},
    "objective.beta": {"distill": {"beta": 0.0}},
    "models and layout": {"cluster": {"device": "h100-80gb", "devices_per_node": 8}},
}
"""Decision -> the one key of a plan that makes it, beside what follows from it."""


def compiled(*edits: dict) -> RunPlan:
    tables = dict(BASE)
    for edit in edits:
        for name, keys in edit.items():
            tables[name] = {**tables.get(name, {}), **keys}
    run_plan = compile_plan(plan(**tables), FACTS, "test").run_plan
    assert run_plan is not None
    return run_plan


@pytest.mark.parametrize("decision", ALONE)
def test_a_decision_alone_moves_the_peak_as_its_key_alone_does(decision):
    old, everything = compiled(), compiled(*ALONE.values())
    alone = compiled(ALONE[decision])
    expected = alone.ledger.peak_bytes - old.ledger.peak_bytes
    assert peak_differences(old, everything)[decision] == expected


def test_the_decisions_of_the_test_are_told_apart():
    differences = peak_differences(compiled(), compiled(*ALONE.values()))
    assert differences.keys() >= ALONE.keys()
    assert differences["objective.beta"] == 0
    assert differences["batch"] < 0 < differences["optimizer.distributed"]


def test_a_device_of_another_version_has_no_price():
    old = compiled()
    gone = replace(old, layout=replace(old.layout, device="abacus"))
    assert peak_differences(old, gone) == {}
    assert peak_differences(old, old) == {}
