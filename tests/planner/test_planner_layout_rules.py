"""The rules of each axis on shapes built by hand: what breaks them, where, and what help offers."""

from dataclasses import replace
from typing import Any

import pytest
from planner_facts import TINY, facts, plan

from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.experts import MoeShape
from gkdplan.planner.checks.declaration import check_declaration
from gkdplan.planner.checks.degrees import is_possible, nearest, possible_degrees
from gkdplan.planner.checks.laid_out import each_model
from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.layout import stage_layers, token_multiple
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.shape import ModelShape
from gkdplan.spec.models import Parallel

# 12 layers, 8 heads of which 4 are kv, and an ffn of 160.
DENSE = replace(TINY, num_layers=12, num_attention_heads=8, num_kv_heads=4)
EXPERTS = replace(
    DENSE,
    moe=MoeShape(
        num_experts=6,
        num_experts_per_token=2,
        expert_ffn_hidden_size=48,
        shared_ffn_hidden_size=36,
    ),
)


def found(shape: ModelShape, ranks: int, teacher: Any = None, **axes: Any) -> list[Diagnostic]:
    """The findings of GK2 for one shape as both models."""
    tables: dict[str, Any] = {
        "cluster": {"devices_per_node": ranks},
        "student": {"parallel": axes},
        "teacher": {} if teacher is None else {"parallel": teacher},
    }
    findings = check_declaration(plan(**tables), facts(student=shape, teacher=shape))
    return [finding for finding in findings if finding.code.startswith("GK2")]


@pytest.mark.parametrize(
    ("shape", "ranks", "axes", "code", "key", "help"),
    [
        (DENSE, 12, {"tensor": 2, "context": 5}, "GK201", "context", "to 1, 2, 3 or 6"),
        (DENSE, 12, {"tensor": 2, "pipeline": 4}, "GK201", "pipeline", "to 1, 2, 3 or 6"),
        # Of the divisors of 12 / 3 ranks 4 does not divide 6 experts, and 1 is GK226.
        (EXPERTS, 12, {"expert_tensor": 3, "expert": 6}, "GK208", "expert", "to 2"),
        (DENSE, 5, {"pipeline": 5}, "GK210", "pipeline", "to 1"),
        (DENSE, 3, {"pipeline": 3, "last_stage_layers": 3}, "GK210", "pipeline", "stage_layers"),
        (DENSE, 2, {"pipeline": 2, "first_stage_layers": 13}, "GK211", "first_stage_layers", ""),
        (DENSE, 3, {"pipeline": 3, "stage_layers": (4, 4)}, "GK212", "stage_layers", "[4, 4, 4]"),
        (DENSE, 2, {"pipeline": 2, "virtual_pipeline": 4}, "GK213", "virtual_pipeline", "3 or 6"),
        (
            DENSE,
            2,
            {"pipeline": 2, "virtual_pipeline": 4, "stage_layers": (4, 8)},
            None,
            "",
            "",
        ),
        (
            DENSE,
            2,
            {"pipeline": 2, "virtual_pipeline": 2, "stage_layers": (5, 7)},
            "GK214",
            "virtual_pipeline",
            "to 1",
        ),
        (DENSE, 1, {"virtual_pipeline": 3}, "GK215", "virtual_pipeline", "above 1"),
        (EXPERTS, 4, {"expert": 4}, "GK220", "expert", "to 1 or 2"),
        (EXPERTS, 10, {"expert_tensor": 5, "expert": 2}, "GK221", "expert_tensor", "to 1"),
        (DENSE, 2, {"expert": 2}, "GK222", "expert", "remove"),
        (DENSE, 2, {"expert_tensor": 2}, "GK223", "expert_tensor", "remove"),
        (EXPERTS, 2, {"tensor": 2, "expert": 2, "sequence": False}, "GK224", "sequence", "remove"),
        (EXPERTS, 2, {"tensor": 2}, "GK226", "tensor", "expert_tensor` to 2"),
        (EXPERTS, 2, {"expert_tensor": 2}, "GK226", "expert_tensor", "to 1"),
        (EXPERTS, 2, {"tensor": 2, "expert_tensor": 2}, None, "", ""),
        (EXPERTS, 2, {"tensor": 2, "expert": 2}, None, "", ""),
        # The expert that sees every token is cut by the tensor axis: 36 % 8 = 4.
        (EXPERTS, 8, {"tensor": 8, "expert": 2}, "GK204", "tensor", "to 1, 2 or 4"),
        # So is the MLP of a layer without experts: 162 % 4 = 2, while 36 % 4 = 0.
        (
            replace(EXPERTS, ffn_hidden_size=162, moe=replace(EXPERTS.moe, dense_layers=(0,))),
            4,
            {"tensor": 4, "expert": 2},
            "GK204",
            "tensor",
            "to 1 or 2",
        ),
        # 6 + 2 x 1 heads of 5 are 40 columns, which 3 does not divide; 6 % 3 = 0 and 3 % 1 = 0.
        (
            replace(DENSE, num_attention_heads=6, num_kv_heads=1, head_dim=5, ffn_hidden_size=96),
            6,
            {"tensor": 3},
            "GK209",
            "tensor",
            "to 1 or 2",
        ),
    ],
)
def test_a_broken_rule_points_at_its_axis_and_offers_degrees(shape, ranks, axes, code, key, help):
    findings = [f for f in found(shape, ranks, **axes) if f.severity is Severity.ERROR]
    assert [(f.code, f.path) for f in findings] == (
        [(code, f"student.parallel.{key}")] if code else []
    )
    assert not code or help in " ".join(findings[0].help)


def test_a_teacher_is_held_to_its_own_axes():
    findings = found(DENSE, 4, teacher={"pipeline": 4, "first_stage_layers": 1}, tensor=2)
    assert [(f.code, f.path) for f in findings] == [("GK210", "teacher.parallel.pipeline")]
    assert findings[0].message.startswith("`teacher` has 11 layers left for 3")


def test_a_student_of_some_layers_is_held_to_those():
    tables = {
        "cluster": {"devices_per_node": 2},
        "student": {
            "init": "layers",
            "keep": {"layers": (0, 1, 2, 3, 4)},
            "parallel": {"pipeline": 2},
        },
    }
    findings = check_declaration(plan(**tables), facts(student=DENSE, teacher=DENSE))
    (found,) = (f for f in findings if f.code == "GK210")
    assert found.message == "`student` has 5 layers for 2 equal pipeline stages"


@pytest.mark.parametrize(("rows", "is_refused"), [(8, False), (4, True)])
def test_a_global_batch_divides_over_the_teachers_data_ranks_too(rows, is_refused):
    tables = {
        "cluster": {"devices_per_node": 8},
        "student": {"parallel": {"tensor": 2}},
        "teacher": {"parallel": {}},
        "batch": {"micro": 1, "global": rows},
    }
    findings = check_declaration(plan(**tables), facts(student=DENSE, teacher=DENSE))
    labels = [f.label for f in findings if f.code == "GK420"]
    assert labels == (["micro-batches of 1 x 8 data ranks of `teacher`"] if is_refused else [])


def test_a_teacher_does_not_train_and_needs_no_sequence_parallelism_for_its_experts():
    assert not found(EXPERTS, 2, teacher={"tensor": 2, "sequence": False})


@pytest.mark.parametrize(("rows", "is_refused"), [(16, False), (24, True), (32, False)])
def test_interleaved_stages_take_micro_batches_in_groups(rows, is_refused):
    # 8 ranks in 4 stages leave 2 data ranks: 16, 24 and 32 rows are 4, 6 and 8 micro-batches.
    tables = {
        "cluster": {"devices_per_node": 8},
        "student": {"parallel": {"pipeline": 4, "virtual_pipeline": 3}},
        "batch": {"micro": 2, "global": rows},
    }
    findings = check_declaration(plan(**tables), facts(student=DENSE, teacher=DENSE))
    refused = [f for f in findings if f.code == "GK216"]
    assert bool(refused) is is_refused
    if refused:
        assert refused[0].help[0] == "set `batch.global` to 16 or 32"


@pytest.mark.parametrize(
    ("recompute", "code", "path"),
    [
        ({"granularity": "full"}, "GK230", "granularity"),
        ({"granularity": "full", "method": "block", "num_layers": 12}, None, ""),
        ({"granularity": "full", "method": "block", "num_layers": 13}, "GK233", "num_layers"),
        ({"granularity": "full", "method": "uniform", "num_layers": 6}, None, ""),
        ({"granularity": "full", "method": "uniform", "num_layers": 5}, "GK234", "num_layers"),
        ({"granularity": "full", "method": "uniform", "num_layers": 24}, "GK234", "num_layers"),
        ({"granularity": "selective"}, None, ""),
        ({"granularity": "selective", "modules": ("mlp", "attn")}, "GK231", "modules[1]"),
        ({"granularity": "selective", "modules": ("shared_experts",)}, "GK232", "modules[0]"),
    ],
)
def test_recompute_says_what_and_names_what_there_is(recompute, code, path):
    tables = {"student": {"recompute": recompute}}
    findings = check_declaration(plan(**tables), facts(student=DENSE, teacher=DENSE))
    of_layout = [(f.code, f.path) for f in findings if f.code.startswith("GK2")]
    assert of_layout == ([(code, f"student.recompute.{path}")] if code else [])


@pytest.mark.parametrize(
    ("shape", "device", "is_there"),
    [
        (DENSE, "cpu", True),
        (DENSE, "h100-80gb", False),
        (EXPERTS, "h100-80gb", True),
    ],
)
def test_a_norm_inside_a_projection_is_no_module(shape, device, is_there):
    tables = {
        "cluster": {"device": device},
        "student": {"recompute": {"granularity": "selective", "modules": ("layernorm",)}},
    }
    findings = check_declaration(plan(**tables), facts(student=shape, device=device))
    assert [f.code for f in findings if f.code == "GK232"] == ([] if is_there else ["GK232"])


def test_experts_can_be_recomputed_where_there_are_some():
    tables = {
        "student": {"recompute": {"granularity": "selective", "modules": ("moe", "shared_experts")}}
    }
    findings = check_declaration(plan(**tables), facts(student=EXPERTS, teacher=EXPERTS))
    assert not [f for f in findings if f.code.startswith("GK2")]


def test_the_modules_of_selective_recompute_are_decided():
    tables = {"student": {"recompute": {"granularity": "selective"}}}
    run_plan = compile_plan(plan(**tables), facts(), "test").run_plan
    assert run_plan.models.student.recompute.modules == ("core_attn",)


@pytest.mark.parametrize(
    ("axes", "stages"),
    [
        ({"pipeline": 3}, ((4,), (4,), (4,))),
        ({"pipeline": 3, "first_stage_layers": 2}, ((2,), (5,), (5,))),
        (
            {"pipeline": 3, "first_stage_layers": 2, "last_stage_layers": 4},
            ((2,), (6,), (4,)),
        ),
        ({"pipeline": 2, "virtual_pipeline": 3}, ((2, 2, 2), (2, 2, 2))),
        ({"pipeline": 3, "stage_layers": (3, 5, 4)}, ((3,), (5,), (4,))),
        (
            {"pipeline": 2, "virtual_pipeline": 2, "stage_layers": (4, 8)},
            ((2, 2), (4, 4)),
        ),
    ],
)
def test_stages_take_the_layers_they_are_given_and_equal_shares_of_the_rest(axes, stages):
    assert stage_layers(12, Parallel(**axes)) == stages


@pytest.mark.parametrize(
    ("axes", "multiple"),
    [
        ({"tensor": 4, "sequence": False}, 1),
        ({"tensor": 4, "sequence": True}, 4),
        # Two pieces for each of 3 context ranks.
        ({"tensor": 1, "sequence": False, "context": 3}, 6),
        # A context rank's share is two pieces, and 4 (or 3) tensor ranks divide it.
        ({"tensor": 4, "sequence": True, "context": 3}, 12),
        ({"tensor": 3, "sequence": True, "context": 3}, 18),
    ],
)
def test_rows_are_padded_to_what_every_axis_can_share(axes, multiple):
    assert token_multiple(AxisDegrees(data=1, **axes)) == multiple


def test_offered_degrees_keep_every_rule_of_the_axis():
    tables = {
        "cluster": {"devices_per_node": 24},
        "student": {"parallel": {"pipeline": 2, "virtual_pipeline": 3, "expert": 2}},
    }
    given, known = plan(**tables), facts(student=EXPERTS, teacher=EXPERTS)
    for axis, degrees in {
        "tensor": (1, 2, 4),
        # Stages of 12 / p layers in 3 chunks; one stage has no chunks.
        "pipeline": (2, 4),
        "virtual_pipeline": (1, 2, 3, 6),
        "context": (1, 2, 3, 4, 6, 12),
        "expert": (1, 2, 3, 6),
        "expert_tensor": (1, 2, 3, 6),
    }.items():
        assert possible_degrees(given, known, "student.parallel", axis) == degrees
        student, _ = each_model(given, known)
        assert all(is_possible(student.with_axes(**{axis: degree})) for degree in degrees)


def test_no_more_than_six_degrees_are_offered_the_nearest_ones():
    assert nearest((1, 2, 4, 8, 16, 32, 64), 48) == (2, 4, 8, 16, 32, 64)
