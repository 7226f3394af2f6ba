"""A layout that the rules accept is accepted by megatron-core, and one that a rule of Megatron's
refuses is refused by it: both verdicts on hundreds of random layouts of random models."""

import random
from collections import Counter
from dataclasses import dataclass
from math import lcm, prod
from typing import Any

import pytest
from megatron_verdict import refusal

from gkdplan.codes import CODES
from gkdplan.experts import MoeShape
from gkdplan.facts.devices import DEVICES
from gkdplan.facts.model import DataFile, Facts, ModelFacts
from gkdplan.planner.checks.declaration import check_declaration
from gkdplan.planner.layout import teacher_parallel, world_size_of
from gkdplan.shape import ModelShape
from gkdplan.spec.models import Parallel
from gkdplan.spec.plan import Plan

NUM_LAYOUTS = 700
BATCH_CODE = "GK420"
"""The one rule of the schedule that Megatron has too."""
NOT_PRICED = "GK590"
"""Says what this version cannot price yet, and nothing of the layout."""
OWN_CODES = {code for code, row in CODES.items() if code.startswith("GK2") and row.source is None}
"""Rules of this planner's own, on which Megatron has no verdict: they are left out."""
NOT_TRIED = {"GK234", "GK251"}
"""GK234 is refused inside a first forward (tests/runtime/test_trace_axes.py), before which these
verdicts stop; GK251 is about adapters, which Megatron does not have."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The codes of errors that the rules found, and Megatron's reasons."""

    codes: frozenset[str]
    reasons: tuple[str, ...]
    plan: Plan


@pytest.fixture(scope="module")
def verdicts() -> list[Verdicts]:
    return [_both_verdicts(random.Random(seed)) for seed in range(NUM_LAYOUTS)]


def test_what_the_rules_accept_megatron_accepts(verdicts):
    accepted = [verdict for verdict in verdicts if not verdict.codes]
    assert not [(verdict.reasons, verdict.plan) for verdict in accepted if verdict.reasons]
    assert len(accepted) > NUM_LAYOUTS / 5


def test_what_a_rule_of_megatrons_refuses_megatron_refuses(verdicts):
    refused = [verdict for verdict in verdicts if verdict.codes - OWN_CODES - NOT_TRIED]
    assert not [(verdict.codes, verdict.plan) for verdict in refused if not verdict.reasons]
    assert len(refused) > NUM_LAYOUTS / 5


def test_every_rule_of_megatrons_was_the_only_one_broken_somewhere(verdicts):
    """Else a rule that refuses too much could hide behind another that is right."""
    megatrons = [v.codes - OWN_CODES for v in verdicts]
    alone = Counter(code for codes in megatrons if len(codes) == 1 for code in codes)
    rules = {code for code, row in CODES.items() if code.startswith("GK2") and row.source}
    assert rules - NOT_TRIED | {BATCH_CODE} == alone.keys() - NOT_TRIED


def _both_verdicts(draw: random.Random) -> Verdicts:
    plan, facts = _plan(draw), _facts(draw)
    world_size = world_size_of(plan.cluster)
    reasons = (
        refusal(
            facts.student.shape,
            plan.student.parallel,
            world_size,
            plan.batch,
            plan.student.recompute,
        ),
        refusal(facts.teacher.shape, teacher_parallel(plan), world_size, plan.batch, None),
    )
    errors = {f.code for f in check_declaration(plan, facts) if f.severity == "error"}
    errors.discard(NOT_PRICED)
    assert all(code.startswith("GK2") or code == BATCH_CODE for code in errors), errors
    return Verdicts(frozenset(errors), tuple(filter(None, reasons)), plan)


def _plan(draw: random.Random) -> Plan:
    axes = _axes(draw)
    student: dict[str, Any] = {"model": "student", "dtype": "fp32", "parallel": axes}
    if draw.random() < 0.3:
        student["recompute"] = _recompute(draw)
    teacher: dict[str, Any] = {"model": "teacher"}
    if draw.random() < 0.3:
        teacher["parallel"] = _axes(draw)
    micro = draw.choice([1, 1, 2])
    return Plan.model_validate(
        {
            "name": "random",
            "cluster": {"devices_per_node": _ranks(draw, axes)},
            "student": student,
            "teacher": teacher,
            "data": {"train": ("rows",), "max_length": 8},
            "generation": {"max_completion_length": 8},
            "batch": {"micro": micro, "global": micro * draw.choice([6, 12, 20, 24, 36, 60])},
        }
    )


def _ranks(draw: random.Random, axes: dict[str, Any]) -> int:
    """A number that the axes mostly divide."""
    if draw.random() < 0.15:
        return draw.choice([1, 2, 4, 6, 9, 12])
    meshes = (("tensor", "context", "pipeline"), ("expert_tensor", "expert", "pipeline"))
    groups = (prod(axes.get(axis, 1) for axis in mesh) for mesh in meshes)
    return lcm(*groups) * draw.choice([1, 1, 2, 2, 3, 4])


def _axes(draw: random.Random) -> dict[str, Any]:
    """Few axes above 1 at a time, so that a good share is possible."""
    axes: dict[str, Any] = {}
    if draw.random() < 0.4:
        axes["tensor"] = draw.choice([2, 2, 3, 4, 4])
    if draw.random() < 0.25:
        axes["sequence"] = draw.random() < 0.2
    if draw.random() < 0.2:
        axes["context"] = draw.choice([2, 2, 3])
    if draw.random() < 0.2:
        axes["expert"] = draw.choice([2, 2, 3, 4])
    if draw.random() < 0.15:
        axes["expert_tensor"] = draw.choice([2, 2, 3])
    if draw.random() < 0.4:
        axes["pipeline"] = draw.choice([2, 2, 3, 4])
    if draw.random() < (0.3 if "pipeline" in axes else 0.04):
        axes["virtual_pipeline"] = draw.choice([2, 2, 3])
    stages = draw.random()
    if "pipeline" not in axes and draw.random() < 0.8:
        stages = 0.5
    if stages < 0.1:
        axes["first_stage_layers"] = draw.randint(1, 4)
    if 0.05 < stages < 0.12:
        axes["last_stage_layers"] = draw.randint(1, 4)
    if stages > (0.85 if "pipeline" in axes else 0.98):
        axes["stage_layers"] = tuple(draw.choice([2, 4]) for _ in range(axes.get("pipeline", 1)))
    Parallel.model_validate(axes)
    return axes


def _recompute(draw: random.Random) -> dict[str, Any]:
    if draw.random() < 0.5:
        keys = {"method": draw.choice(["uniform", "block"]), "num_layers": draw.randint(1, 8)}
        kept = {key: value for key, value in keys.items() if draw.random() < 0.8}
        return {"granularity": "full", **kept}
    known = [
        "core_attn",
        "mlps",
        "mlp",
        "layernorm",
        "moe",
        "shared_experts",
        "moe_act",
        "mla_up_proj",
    ]
    modules = tuple(draw.sample(known, draw.randint(0, 2)))
    return {"granularity": draw.choice(["none", "selective"]), "modules": modules}


def _facts(draw: random.Random) -> Facts:
    has_experts = draw.random() < 0.5
    models = (_shape(draw, has_experts), _shape(draw, has_experts and draw.random() < 0.9))
    student, teacher = (
        ModelFacts(name, shape, "config.json", None, None)
        for name, shape in zip(("student", "teacher"), models, strict=True)
    )
    rows = DataFile("rows", "rows", None, 256, 256, 0, "ab" * 32)
    return Facts(student, teacher, DEVICES["cpu"], (rows,), ())


def _shape(draw: random.Random, has_experts: bool) -> ModelShape:
    num_heads = draw.choice([4, 6, 12, 12, 12])
    moe = None
    if has_experts:
        moe = MoeShape(
            num_experts=draw.choice([4, 6, 8]),
            num_experts_per_token=2,
            expert_ffn_hidden_size=draw.choice([8, 12, 20]),
            shared_ffn_hidden_size=draw.choice([0, 12, 20]),
        )
    return ModelShape(
        family="llama",
        hidden_size=8,
        num_layers=draw.choice([4, 6, 8, 8, 12]),
        num_attention_heads=num_heads,
        num_kv_heads=draw.choice([n for n in (1, 2, 2, 3, 4, 4) if num_heads % n == 0]),
        head_dim=draw.choice([4, 4, 5]),
        ffn_hidden_size=draw.choice([24, 20, 30]),
        vocab_size=128,
        max_position_embeddings=64,
        norm_eps=1e-5,
        rope_theta=10000.0,
        tied_embeddings=False,
        qkv_bias=False,
        qk_norm=False,
        moe=moe,
    )
