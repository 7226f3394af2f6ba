"""The step that a trace runs on fakes, on the real tensors of this process."""

from unittest.mock import patch

import torch
from settled_collectives import settled

from gkdplan.runplan.codec import decode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime import traced_step
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.mesh import Mesh, close_mesh, init_mesh
from gkdplan.runtime.traced_step import TracedStep, build_step


def build_real_step(run_plan: RunPlan) -> tuple[TracedStep, Mesh]:
    """With random weights, of which the optimizer has its copies."""
    close_mesh()
    platform.prepare(run_plan.layout.backend)
    mesh = init_mesh(run_plan.layout, seed=0)
    step = build_step(run_plan, mesh)
    with torch.no_grad():
        for chunk in (*step.trainer.chunks, *step.distillation.teacher):
            for parameter in chunk.parameters():
                parameter.normal_(std=0.02)
    step.trainer._optimizer.reload_model_params()
    return step, mesh


def check_peaks(lock: str, traced: list[dict[str, int]]) -> None:
    """On every rank: a step of the run plan, every micro-batch run, peaks in each phase where the
    trace of its stage does, to a thousandth."""
    run_plan = decode(lock)
    step, mesh = build_real_step(run_plan)
    num_micro_batches = run_plan.batch.num_micro_batches
    every_micro_batch = patch.object(traced_step, "_num_repeats", lambda _: num_micro_batches)
    with settled(), step.meter, every_micro_batch:
        step.warm_up()
        step.run()
    for stage, of_stage in enumerate(traced):
        peaks = torch.tensor([step.peak_bytes[phase] for phase in of_stage])
        fullest = peaks * (mesh.pipeline_rank == stage)
        torch.distributed.all_reduce(fullest, torch.distributed.ReduceOp.MAX)
        for (phase, expected), peak_bytes in zip(of_stage.items(), fullest.tolist(), strict=True):
            error = expected / peak_bytes - 1
            assert abs(error) <= 0.001, f"stage {stage} {phase}: off by {error:+.4%}"
