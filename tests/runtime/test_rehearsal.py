"""What `gkdplan verify` runs: small plans that keep every axis, and a judgement that sees what is
broken on purpose."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from transformers import AutoConfig

from gkdplan.cli.compiling import Compiled, compile_file
from gkdplan.cli.rehearsing import plans_of, written
from gkdplan.facts.known import find_known
from gkdplan.planner.reduced import reduce_plan
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.rehearsal import Claim
from gkdplan.runtime.rehearsal.launch import judge
from gkdplan.runtime.rehearsal.outcome import Outcome, difference, size_of
from gkdplan.runtime.rehearsal.worker import ALONE

PLAN = """
name = "large"
[cluster]
device = "h100-80gb"
num_nodes = {nodes}
devices_per_node = 8
[student]
model = "{student}"
{student_parallel}
[teacher]
model = "{teacher}"
{teacher_parallel}
[data]
train = ["{rows}"]
[batch]
global = 256
[run]
steps = 2
"""
QWEN, LLAMA = "Qwen/Qwen2.5-3B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"
SMOL, MOE = "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen3-30B-A3B"
GEMMA = "google/gemma-3-1b-pt"
UNIFORM = 'granularity = "full", method = "uniform", num_layers = 4'
ONE_NODE = {"nodes": 1, "student": QWEN, "teacher": QWEN, "teacher_parallel": ""}
PLANS = {
    "data 8": {"student_parallel": ""},
    "kv heads shared by 4 ranks": {"student_parallel": "parallel = { tensor = 8 }"},
    "every axis of a dense model": {"nodes": 4}
    | {"student_parallel": "parallel = { tensor = 2, pipeline = 2, context = 2 }"},
    "interleaved": {"student_parallel": "parallel = { pipeline = 4, virtual_pipeline = 3 }"},
    "adapters": {
        "student_parallel": "lora = { rank = 4, dropout = 0.1 }\ntuning = 'lora'\n"
        "parallel = { tensor = 2, pipeline = 2 }"
    },
    "uneven": {"nodes": 2, "student": SMOL, "teacher": SMOL}
    | {"student_parallel": "parallel = { pipeline = 8, stage_layers = [1, 4, 4, 4, 4, 4, 4, 5] }"},
    "experts": {"nodes": 2, "student": MOE, "teacher": MOE}
    | {"student_parallel": "parallel = { tensor = 2, expert = 4, expert_tensor = 2 }"},
    "experts of the teacher alone": {"student": "Qwen/Qwen3-0.6B", "teacher": MOE}
    | {"student_parallel": "parallel = { pipeline = 2 }"}
    | {"teacher_parallel": "parallel = { tensor = 2, expert = 8 }"},
    "layers of two kinds": {"student": GEMMA, "teacher": GEMMA}
    | {"student_parallel": "parallel = { pipeline = 2 }"},
    "llama's rotary rule, recompute": {"student": "meta-llama/Llama-3.2-1B-Instruct"}
    | {"teacher": LLAMA, "teacher_parallel": "parallel = { tensor = 4 }"}
    | {"student_parallel": f"recompute = {{ {UNIFORM} }}"},
}
NUM_RANKS = {"every axis of a dense model": 16, "uneven": 4}


def compiled(home: Path, **values: object) -> Compiled:
    (home / "large.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 512)
    plan = home / "plan.toml"
    plan.write_text(PLAN.format(rows=home / "large.jsonl", **ONE_NODE | values))
    return compile_file(str(plan))


def small_plans(large: Compiled, home: Path) -> dict[str, RunPlan]:
    """They must compile without an error."""
    assert large.plan is not None
    assert large.facts is not None
    return dict(plans_of(written(reduce_plan(large.plan, large.facts, large.decided()), home)))


@pytest.mark.parametrize("name", PLANS)
def test_every_axis_of_a_large_plan_is_in_its_small_one(name: str, tmp_path: Path) -> None:
    large = compiled(tmp_path, **PLANS[name])
    small = small_plans(large, tmp_path)[Claim.LAYOUT]
    assert small.layout.world_size == NUM_RANKS.get(name, 8)
    for role in ("student", "teacher"):
        axes, planned = (getattr(plan.layout, role) for plan in (small, large.decided()))
        for axis in ("tensor", "pipeline", "virtual_pipeline", "context", "expert", "data"):
            degree = getattr(planned, axis)
            assert min(degree, 2) <= getattr(axes, axis) <= degree, (role, axis)
        assert axes.sequence is planned.sequence
        shape, whole = (getattr(p.models, role).shape for p in (small, large.decided()))
        AutoConfig.from_pretrained(getattr(small.models, role).model)  # raises where it is not one
        assert (shape.moe is None) is (whole.moe is None)
        assert shape.num_parameters < 2**22
        parts = ("family", "tied_embeddings", "qkv_bias", "qk_norm", "rope_scaling", "rope_theta")
        assert all(getattr(shape, part) == getattr(whole, part) for part in parts)
        attention, of_whole = shape.attention, whole.attention
        assert bool(attention.sliding_layers) is bool(of_whole.sliding_layers)
        assert attention.sliding_rope_theta == of_whole.sliding_rope_theta
        if of_whole.window is not None:
            assert 0 < len(attention.sliding_layers) < shape.num_layers
            assert attention.window is not None
            assert attention.window < 10


def test_layers_without_experts_are_in_the_small_plan(tmp_path: Path) -> None:
    known = find_known(MOE)
    assert known is not None
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    config = dict(known.config) | {"mlp_only_layers": [0, 1], "num_hidden_layers": 8}
    (mixed / "config.json").write_text(json.dumps(config))
    parallel = "parallel = { pipeline = 2, expert = 4 }"
    large = compiled(tmp_path, student=mixed, teacher=mixed, student_parallel=parallel)
    shape = small_plans(large, tmp_path)[Claim.LAYOUT].models.student.shape
    assert shape.moe is not None
    assert 0 < shape.num_dense_layers < shape.num_layers


def test_of_a_teacher_that_is_the_student_nothing_else_is_learnt(tmp_path: Path) -> None:
    labels = "[distill]\nsft_alpha = 0.5\nlmbda = 0.0"
    large = compiled(tmp_path, student_parallel="", teacher_parallel=labels)
    small = small_plans(large, tmp_path)
    assert [small[c].objective.sft_alpha for c in (Claim.ITSELF, Claim.LAYOUT)] == [0.0, 0.5]


def test_a_large_plan_of_an_average_has_a_teacher_of_its_own_when_small(tmp_path: Path) -> None:
    compiled(tmp_path, student_parallel="")
    plan = tmp_path / "plan.toml"
    itself = plan.read_text().replace(f'[teacher]\nmodel = "{QWEN}"', '[teacher]\nself = "ema"')
    plan.write_text(itself)
    small = small_plans(compile_file(str(plan)), tmp_path)[Claim.LAYOUT]
    assert small.models.teacher.ema_decay is None
    assert small.models.teacher.model != small.models.student.model


def _nothing() -> None:
    pass


def _skip_the_sum_over_data_ranks() -> None:
    from gkdplan.runtime.megatron import trainer

    patch.object(trainer, "finalize_model_grads", lambda *_, **__: None).start()


def _count_own_tokens_only() -> None:
    from gkdplan.runtime import teaching

    def own(_: object, batches: list) -> int:
        return sum(batch.num_response_tokens for batch in batches)

    patch.object(teaching, "count_tokens", own).start()


MISSES = {
    _nothing: set(),
    _skip_the_sum_over_data_ranks: {(Claim.LAYOUT, "gradient"), (Claim.SPLIT, "gradient")},
    _count_own_tokens_only: {
        (claim, what) for claim in (Claim.LAYOUT, Claim.SPLIT) for what in ("loss", "gradient")
    },
}


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """The locks of two data ranks, and a home where the one process has run."""
    home = tmp_path_factory.mktemp("rehearsal")
    large = compiled(home, student=SMOL, teacher=QWEN, nodes=2, student_parallel="")
    plans = small_plans(large, home)
    locks = {name: encode(plan) for name, plan in plans.items()}
    run_on_ranks(_rehearse, 1, {ALONE: locks.pop(ALONE)}, home, _nothing)
    return locks, home


@pytest.mark.parametrize("breaking", MISSES, ids=lambda breaking: breaking.__name__.strip("_"))
def test_it_misses_where_the_step_is_broken_and_only_there(breaking, rehearsed) -> None:
    locks, home = rehearsed
    run_on_ranks(_rehearse, 2, locks, home, breaking)
    assert {(c.claim, c.what) for c in judge(home) if not c.holds} == MISSES[breaking]


def _leave_gradients_of_a_narrow_middle_partial() -> None:
    from gkdplan.runtime.megatron.lora import dense

    gather = dense.gather_from_sequence_parallel_region
    patch.object(
        dense, "gather_from_sequence_parallel_region",
        lambda x, **_: gather(x, tensor_parallel_output_grad=False),
    ).start()  # fmt: skip


@pytest.mark.parametrize("breaking", [_nothing, _leave_gradients_of_a_narrow_middle_partial])
def test_adapters_are_held_against_those_of_one_process(breaking, tmp_path) -> None:
    adapters = "tuning = 'lora'\nlora = { rank = 4, dropout = 0.1 }\nparallel = { tensor = 2 }"
    large = compiled(tmp_path, nodes=2, student_parallel=adapters)
    locks = {name: encode(plan) for name, plan in small_plans(large, tmp_path).items()}
    run_on_ranks(_rehearse, 1, {ALONE: locks.pop(ALONE)}, tmp_path, _nothing)
    run_on_ranks(_rehearse, 4, locks, tmp_path, breaking)
    checks = judge(tmp_path)
    missed = {(check.claim, check.what) for check in checks if not check.holds}
    of_gradients = {(Claim.LAYOUT, "gradient"), (Claim.SPLIT, "gradient")}
    assert missed == (set() if breaking is _nothing else of_gradients)
    assert Outcome.load(tmp_path / f"{ALONE}.rank_0.safetensors").gradients.keys() >= {
        "model.layers.0.self_attn.q_proj.lora_A", "model.layers.1.mlp.down_proj.lora_B"
    }  # fmt: skip


def _rehearse(locks: dict[str, str], home: Path, breaking: Callable[[], None]) -> None:
    from gkdplan.runtime.megatron import platform
    from gkdplan.runtime.phases import Position
    from gkdplan.runtime.rehearsal.first_step import rehearse

    platform.prepare("gloo")
    try:
        breaking()
        rehearse(locks, str(home), Position(step=1, phase="start"))
        dist.barrier()
    finally:
        patch.stopall()


@pytest.mark.parametrize("order", [("right", "spoilt"), ("spoilt", "right")])
def test_what_is_no_number_is_infinitely_far_off(order) -> None:
    right = Outcome(1.0, {name: torch.ones(2) for name in order})
    spoilt = Outcome(math.nan, right.gradients | {"spoilt": torch.tensor([1.0, math.nan])})
    for found in (size_of([right, spoilt]), difference([right, spoilt], [right])):
        assert (found.loss, found.gradient, found.parameter) == (math.inf, math.inf, "spoilt")


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    Outcome(1 / 3, {"a.weight": torch.tensor([1e-30, 2.0])}).save(tmp_path / "outcome")
    found = Outcome.load(tmp_path / "outcome")
    assert found.loss == 1 / 3
    assert torch.equal(found.gradients.pop("a.weight"), torch.tensor([1e-30, 2.0]))
    assert not found.gradients
