"""Models with experts: their trace against real tensors, and the ledger against their trace."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from megatron.core.transformer.moe import router
from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function
from real_step import build_real_step
from settled_collectives import settled
from tiny_plans import compile_plan_text

from gkdplan.facts.known import find_known
from gkdplan.planner.memory.activations import Batch, layer_bytes
from gkdplan.planner.memory.expert_activations import routing_bytes
from gkdplan.planner.memory.model import rank_model
from gkdplan.report.trace import compare
from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.fake_world import fake_world
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.trace import TracedStep, build_step, trace
from gkdplan.vocab import Phase

PLAN = """
name = "experts"
[cluster]
devices_per_node = {devices}
memory_limit = "4TiB"
[student]
model = "{student}"
dtype = "{dtype}"
[student.parallel]
{parallel}
[teacher]
model = "{teacher}"
{teacher_parallel}
[distill]
lmbda = 0.0
[generation]
engine = "none"
max_completion_length = 32
[data]
train = ["{rows}"]
max_length = {prompt}
[batch]
micro = 1
global = {num_rows}
[optimizer]
distributed = {distributed}
[run]
steps = 2
"""
DEFAULTS = {"devices": 1, "dtype": "bf16", "parallel": "", "teacher_parallel": ""} | {
    "prompt": 96,
    "num_rows": 8,
    "distributed": "true",
}
QWEN_1_5, QWEN_3 = "Qwen/Qwen1.5-MoE-A2.7B", "Qwen/Qwen3-30B-A3B"
MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
DENSE = "Qwen/Qwen3-0.6B"
TINY = {"student": "tiny_moe", "teacher": "tiny_moe"}
SHALLOW_QWEN = {"student": f"2 of {QWEN_3}", "teacher": f"2 of {QWEN_3}", "prompt": 2016}
SHALLOW_MIXTRAL = {"student": f"2 of {MIXTRAL}", "teacher": f"3 of {MIXTRAL}", "prompt": 2016}
TO_DENSE = {"student": DENSE, "teacher": f"3 of {QWEN_3}", "prompt": 992, "devices": 8}
FROM_DENSE = {"student": f"3 of {QWEN_3}", "teacher": DENSE, "prompt": 4064, "devices": 8}
GRID = {
    "tiny fp32": {**TINY, "dtype": "fp32"},
    "tiny replicated": {**TINY, "distributed": "false", "devices": 2},
    "tiny expert 4 of 4": {**TINY, "devices": 4, "parallel": "expert = 4"},
    "tiny tensor 2 expert 2 expert tensor 2": {**TINY, "devices": 4}
    | {"parallel": "tensor = 2\nexpert = 2\nexpert_tensor = 2"},
    "tiny expert 2 from dense": {"student": "tiny_moe", "teacher": "tiny_dense", "devices": 2}
    | {"parallel": "expert = 2", "teacher_parallel": "[teacher.parallel]\ntensor = 1"},
    "tiny to dense": {"student": "tiny_dense", "teacher": "tiny_moe", "dtype": "fp32"},
    "tiny from dense": {"student": "tiny_moe", "teacher": "tiny_dense"},
    "mixtral 8x7B expert 8": {**SHALLOW_MIXTRAL, "devices": 8, "parallel": "expert = 8"},
    "mixtral 8x7B tensor 2 expert 2 expert tensor 2": {**SHALLOW_MIXTRAL, "devices": 4}
    | {"parallel": "tensor = 2\nexpert = 2\nexpert_tensor = 2"},
    "qwen1.5 A2.7B tensor 2 expert 4": {"student": f"2 of {QWEN_1_5}", "devices": 4}
    | {"teacher": f"2 of {QWEN_1_5}", "prompt": 2016, "parallel": "tensor = 2\nexpert = 4"},
    "qwen1.5 A2.7B fp32 replicated": {"student": f"2 of {QWEN_1_5}", "dtype": "fp32"}
    | {"teacher": f"2 of {QWEN_1_5}", "prompt": 992, "distributed": "false"},
    "qwen3 30B-A3B expert 1": SHALLOW_QWEN,
    "qwen3 30B-A3B expert 2": {**SHALLOW_QWEN, "devices": 2, "parallel": "expert = 2"},
    "qwen3 30B-A3B expert 4 data 8": {**SHALLOW_QWEN, "devices": 8, "parallel": "expert = 4"},
    "qwen3 30B-A3B tensor 2 expert 4": {**SHALLOW_QWEN, "devices": 8}
    | {"parallel": "tensor = 2\nexpert = 4"},
    "qwen3 0.6B to 30B-A3B expert 8": {**FROM_DENSE, "parallel": "expert = 8"}
    | {"teacher_parallel": "[teacher.parallel]\ntensor = 1"},
    "qwen3 0.6B to 30B-A3B tensor 2 expert 4 expert tensor 2": {**FROM_DENSE}
    | {"parallel": "tensor = 2\nexpert = 4\nexpert_tensor = 2"}
    | {"teacher_parallel": "[teacher.parallel]\ntensor = 2"},
    "qwen3 30B-A3B tensor 2 expert 4 to 0.6B": {**TO_DENSE, "parallel": "tensor = 2"}
    | {"teacher_parallel": "[teacher.parallel]\ntensor = 2\nexpert = 4"},
    "qwen3 30B-A3B whole, expert 8": {"student": QWEN_3, "teacher": QWEN_3, "prompt": 992}
    | {"devices": 8, "parallel": "expert = 8"},
}
"""`2 of` a model is the model with its first two layers."""
IN_EVERY_RUN = (
    "tiny fp32",
    "tiny tensor 2 expert 2 expert tensor 2",
    "tiny expert 2 from dense",
    "tiny to dense",
    "mixtral 8x7B expert 8",
)
"""The rest runs with `pytest -m grid`, the last of it for some minutes."""
NAMES = [n if n in IN_EVERY_RUN else pytest.param(n, marks=pytest.mark.grid) for n in GRID]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("experts")
    tiny.save_qwen3_moe(home / "tiny_moe", num_layers=3, hidden=64, ffn=48)
    tiny.save_llama(home / "tiny_dense", num_layers=3, hidden=64, ffn=96)
    tiny.save_rows(home / "rows.jsonl", tiny.ROWS * 2)
    return home


def compiled(home: Path, student: str, teacher: str, **changes: object) -> RunPlan:
    values = DEFAULTS | changes | {"rows": home / "rows.jsonl"}
    models = {"student": _model(home, student), "teacher": _model(home, teacher)}
    return compile_plan_text(PLAN.format(**values, **models))


def _model(home: Path, name: str) -> str:
    if (home / name).exists():
        return str(home / name)
    if " of " not in name:
        return name
    num_layers, hub_id = name.split(" of ")
    directory = home / name.replace("/", "_")
    directory.mkdir(exist_ok=True)
    config = dict(find_known(hub_id).config) | {"num_hidden_layers": int(num_layers)}
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_of_experts_is_within_a_hundredth_of_the_trace(name, home):
    run_plan = compiled(home, **GRID[name])
    for of_class in compare(run_plan, trace(run_plan)):
        phases = [phase for phase in of_class.phases if phase.error is not None]
        print(name, *(f"{phase.phase} {phase.error:+.3%}" for phase in phases), sep="  ")
        assert {phase.phase for phase in phases} == {
            Phase.TEACHER,
            Phase.STUDENT,
            Phase.OPTIMIZER,
        }
        for phase in phases:
            assert abs(phase.error) <= 0.01, f"{phase.phase} misses by {phase.error:+.3%}"


DIVIDED = {
    "one process, fp32": {"dtype": "fp32"},
    "expert 4": {"devices": 4, "parallel": "expert = 4"},
    "tensor 2 expert 2 expert tensor 2": {
        "devices": 4,
        "parallel": "tensor = 2\nexpert = 2\nexpert_tensor = 2",
    },
}


@pytest.mark.parametrize("layout", DIVIDED)
@pytest.mark.parametrize("model", ["tiny_moe", f"2 of {QWEN_1_5}"])
def test_parameters_of_experts_have_megatrons_names_sizes_order_and_buffer(model, layout, home):
    run_plan = compiled(home, model, model, **DIVIDED[layout])
    student, degrees = run_plan.models.student, run_plan.layout.student
    with fake_world(run_plan.layout, 0, max_nonzero=1) as mesh:
        built = build_model(student, degrees, mesh, trainable=True)
        found = [(n, p.numel(), not getattr(p, "allreduce", True)) for n, p in _named(built)]
    (expected,) = rank_model(student, degrees, "gloo", stage=0).chunks
    assert found == [(p.name, p.num_elements, p.is_divided) for p in expected]


def _named(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return list(model.named_parameters())


@pytest.mark.parametrize("layout", DIVIDED)
@pytest.mark.parametrize("model", [QWEN_1_5, MIXTRAL])
def test_a_layer_of_experts_keeps_exactly_what_the_ledger_says(model, layout, home):
    """The difference of two depths is one layer, whatever the ends keep."""
    plans = [
        compiled(home, f"{num} of {model}", f"{num} of {model}", **DIVIDED[layout])
        for num in (1, 2)
    ]
    one, two = (_bytes_after_forward(plan) for plan in plans)
    share = rank_model(plans[0].models.student, plans[0].layout.student, "gloo", stage=0)
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
            output = model(torch.zeros_like(places), places, None)
            num_bytes = meter.current_bytes
        del output
    return num_bytes


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", [{}, {"devices": 2, "parallel": "expert = 2"}], ids=str)
def test_the_trace_of_experts_equals_a_step_on_real_tensors(layout, dtype, home):
    run_plan = compiled(home, "tiny_moe", "tiny_moe", num_rows=2, dtype=dtype, **layout)
    (peaks,) = trace(run_plan).values()
    traced = {str(phase): num_bytes for phase, num_bytes in peaks.items()}
    run_on_ranks(_check_step, run_plan.layout.world_size, encode(run_plan), traced)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_rank_whose_optimizer_takes_most_is_traced(dtype, home):
    """Of two that share its state, cut at different places."""
    run_plan = compiled(home, "tiny_moe", "tiny_moe", num_rows=2, dtype=dtype, devices=2)
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


def _check_step(lock: str, traced: dict[str, int]) -> None:
    run_plan = decode(lock)
    step, _ = build_real_step(run_plan)
    every_micro_batch = patch.object(TracedStep, "_num_repeats", run_plan.batch.num_micro_batches)
    in_turn = patch.object(router, "topk_routing_with_score_function", _experts_in_turn)
    with settled(), step.meter, every_micro_batch, in_turn:
        step.warm_up()
        step.run()
    peaks = torch.tensor([step.peak_bytes[phase] for phase in traced])
    torch.distributed.all_reduce(peaks, torch.distributed.ReduceOp.MAX)
    for (phase, expected), peak_bytes in zip(traced.items(), peaks.tolist(), strict=True):
        error = expected / peak_bytes - 1
        assert abs(error) <= 0.001, f"{phase}: the trace is off by {error:+.4%}"


def _experts_in_turn(
    logits: torch.Tensor, topk: int, **others: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """Megatron's own, with logits that send the first token to the first experts, the next token
    to those that follow."""
    num_tokens, num_experts = logits.shape
    turns = torch.arange(num_tokens * topk).view(num_tokens, topk) % num_experts
    pushed = logits + torch.zeros_like(logits).scatter(1, turns, 1e3)
    return topk_routing_with_score_function(pushed, topk, **others)
