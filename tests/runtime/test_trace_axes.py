"""Steps over each axis, and with recompute, traced on fake tensors: against the same steps
on real ones, and against counts by hand."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from real_step import check_peaks
from tiny_plans import compile_tiny

from gkdplan.planner.memory.activations import layer_bytes
from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.fused import TORCH_ON_CPU
from gkdplan.planner.memory.model import rank_model
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime import traced_step
from gkdplan.runtime.megatron.fake_world import fake_world
from gkdplan.runtime.trace import trace
from gkdplan.runtime.traced_step import build_step
from gkdplan.vocab import Phase

FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": 2, "micro": 2}
FULL = 'granularity = "full"\nmethod = "{method}"\nnum_layers = {num_layers}'
VIRTUAL = "pipeline = 2\nvirtual_pipeline = 2"
UNEVEN = "pipeline = 2\nlast_stage_layers = 1"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Models with the proportions of real ones, and rows that fill the plan."""
    home = tmp_path_factory.mktemp("axes")
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=128, ffn=384, seed=1)
    tiny.save_llama(home / "student", num_layers=4, hidden=96, ffn=256, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS * 4])
    return home


LAYOUTS = {
    "pipeline": {"devices": 2, "parallel": "pipeline = 2", "rows": 8},
    "uneven pipeline, logits": {"devices": 2, "parallel": UNEVEN, "rows": 8, "payload": "logits"},
    "pipeline, block recompute": {"devices": 2, "parallel": "pipeline = 2", "rows": 8}
    | {"recompute": FULL.format(method="block", num_layers=1)},
    "tensor, uniform recompute": {"devices": 2, "tensor": 2, "rows": 8}
    | {"recompute": FULL.format(method="uniform", num_layers=2)},
    "tensor, selective recompute": {"devices": 2, "tensor": 2, "rows": 8}
    | {"recompute": 'granularity = "selective"\nmodules = ["layernorm", "mlp"]'},
    "pipeline, core attention recomputed": {"devices": 2, "parallel": "pipeline = 2", "rows": 8}
    | {"recompute": 'granularity = "selective"'},
    "context": {"devices": 2, "parallel": "context = 2", "rows": 8},
    "virtual pipeline": {"devices": 2, "parallel": VIRTUAL, "rows": 16},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_trace_equals_the_step_on_real_tensors(layout, home, tmp_path):
    run_plan = compile_tiny(home, tmp_path / "run", **FILLED, **LAYOUTS[layout])
    traced = [{str(phase): n for phase, n in peaks.items()} for peaks in trace(run_plan).values()]
    run_on_ranks(check_peaks, run_plan.layout.world_size, encode(run_plan), traced)


def test_a_stage_keeps_one_micro_batch_more_for_each_stage_that_follows(home, tmp_path):
    """1F1B: stage i of p has min(M, p - i) micro-batches in flight (Narayanan et al., "Efficient
    Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", 2021, section 2.2)."""
    plans = [_pipeline_of_4(home, tmp_path, num_micro_batches) for num_micro_batches in range(1, 7)]
    peaks = [[peaks[Phase.STUDENT] for peaks in trace(plan).values()] for plan in plans]
    tokens = 8 * (2 * 64 + 2 * 24 + 2 * 24)  # int64: 2 rows of 64, places and labels of 24 each
    student = rank_model(plans[0].models.student, plans[0].layout.student, TORCH_ON_CPU, stage=0)
    layer = layer_bytes(student, Batch(2, 64))
    sent = 4  # of an output that was sent one float32 element stays
    gradient = 4 * 2 * 64 * 96  # that was sent back, while the next forward runs
    for stage in (0, 1, 2):  # whose peak lies in the backward of one micro-batch among others
        for num, (fewer, more) in enumerate(pairwise(peaks), start=2):
            fills = num <= 4 - stage
            overlaps = stage > 0 and num == 4 - stage + 1
            expected = tokens + fills * (layer + sent) + overlaps * gradient
            assert more[stage] - fewer[stage] == expected, (stage, num)


def _pipeline_of_4(home: Path, tmp_path: Path, num_micro_batches: int) -> RunPlan:
    layout = {"devices": 4, "parallel": "pipeline = 4", "rows": 2 * num_micro_batches}
    return compile_tiny(home, tmp_path / "run", **FILLED, **layout)


def test_micro_batches_that_are_not_run_would_add_their_loss_alone(home, tmp_path):
    """A float32 scalar each, on the last stage, beside the payload that is there without a run."""
    plan = compile_tiny(home, tmp_path / "run", **FILLED, **LAYOUTS["virtual pipeline"])
    num_run, num = 6, plan.batch.num_micro_batches
    with patch.object(traced_step, "_num_repeats", lambda _: num):
        first_run, last_run = trace(plan).values()
    first, last = trace(plan).values()
    assert first == first_run
    assert last[Phase.TEACHER] == last_run[Phase.TEACHER]
    assert last_run[Phase.STUDENT] - last[Phase.STUDENT] == 4 * (num - num_run)


def test_full_recompute_keeps_the_input_of_each_unit(home, tmp_path):
    """Of a micro-batch that waits for its backward, on a first stage of two layers."""
    for num_layers in (1, 2):
        recompute = FULL.format(method="uniform", num_layers=num_layers)
        layout = {"devices": 2, "parallel": "pipeline = 2", "recompute": recompute}
        plans = [
            compile_tiny(home, tmp_path / "run", **FILLED, **layout, rows=rows) for rows in (2, 4)
        ]
        one, two = (next(iter(trace(plan).values()))[Phase.STUDENT] for plan in plans)
        tokens = 8 * (2 * 64 + 2 * 24 + 2 * 24)
        unit_input = 4 * 2 * 64 * 96
        sent = 4
        assert two - one == tokens + 2 // num_layers * unit_input + sent


def test_megatron_runs_past_the_last_layer_where_units_do_not_divide_them(home, tmp_path):
    """Why GK234 refuses such a plan: here the units are changed behind the planner's back."""
    recompute = FULL.format(method="uniform", num_layers=2)
    run_plan = compile_tiny(
        home, tmp_path / "run", **FILLED, devices=1, rows=2, recompute=recompute
    )
    student = run_plan.models.student
    units = replace(student, recompute=replace(student.recompute, num_layers=3))
    with pytest.raises(IndexError):
        trace(replace(run_plan, models=replace(run_plan.models, student=units)))


def test_each_stage_holds_its_own_layers_and_the_ends_a_matrix_each(home, tmp_path):
    """A tied embedding lies on both ends of the pipeline."""
    run_plan = compile_tiny(home, tmp_path / "run", **FILLED, **LAYOUTS["uneven pipeline, logits"])
    student, teacher = (_elements_of_stages(run_plan, role) for role in ("student", "teacher"))
    for rank_class in run_plan.layout.classes:
        with fake_world(run_plan.layout, rank_class.ranks[0][0], max_nonzero=1) as mesh:
            step = build_step(run_plan, mesh)
            held = _num_elements(step.trainer.chunks), _num_elements(step.distillation.teacher)
        assert held == (student[rank_class.stage], teacher[rank_class.stage])


def _num_elements(chunks: Sequence[torch.nn.Module]) -> int:
    return sum(parameter.numel() for chunk in chunks for parameter in chunk.parameters())


def _elements_of_stages(run_plan: RunPlan, role: str) -> list[int]:
    model = getattr(run_plan.models, role)
    shape = model.shape
    matrix = model.padded_vocab_size * shape.hidden_size
    stages = [sum(layers) * shape.num_parameters_per_layer for layers in model.stage_layers]
    stages[0] += matrix
    stages[-1] += matrix + shape.hidden_size
    return stages
