"""The step that a trace runs on fakes, on the real tensors of this process."""

import torch

from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.mesh import Mesh, close_mesh, init_mesh
from gkdplan.runtime.trace import TracedStep, build_step


def build_real_step(run_plan: RunPlan) -> tuple[TracedStep, Mesh]:
    """With random weights, of which the optimizer has its copies."""
    close_mesh()
    platform.prepare("gloo")
    mesh = init_mesh(run_plan.layout, seed=0)
    step = build_step(run_plan, mesh)
    with torch.no_grad():
        for chunk in (*step.trainer.chunks, *step.distillation.teacher):
            for parameter in chunk.parameters():
                parameter.normal_(std=0.02)
    step.trainer._optimizer.reload_model_params()
    return step, mesh
