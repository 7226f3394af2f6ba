"""What this executor or this machine lacks for a plan, before a process starts."""

from collections.abc import Iterator

import torch

from gkdplan import __version__
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.boards import has_wandb, no_wandb
from gkdplan.runtime.loss.compiled import has_cpp_compiler
from gkdplan.runtime.machine.gpus import too_small
from gkdplan.runtime.machine.host_memory import too_little
from gkdplan.runtime.machine.kernels import (
    has_transformer_engine,
    no_cpp_compiler,
    no_transformer_engine,
)
from gkdplan.runtime.machine.vllm_package import (
    can_see,
    cannot_see,
    has_vllm,
    no_vllm,
    no_vllm_for_pixels,
)
from gkdplan.runtime.rollout.servers import not_ready
from gkdplan.runtime.teacher.server_checks import check_servers
from gkdplan.vocab import Kernels, LossBackend, Role


def check_machine(run_plan: RunPlan) -> None:
    """Raises UserError where this executor or this machine cannot run the plan."""
    if found := missing_here(run_plan):
        raise UserError(*found)


def missing_here(run_plan: RunPlan) -> tuple[Diagnostic, ...]:
    """What this executor cannot run, GK591, or else what this machine lacks: GK515, GK525, GK526
    and GK527."""
    return tuple(_not_yet_run(run_plan)) or tuple(_not_here(run_plan))


def check_all_servers(run_plan: RunPlan) -> None:
    """Raises UserError where a server of the plan is not ready."""
    check_servers(run_plan)
    check_samplers(run_plan)


def check_samplers(run_plan: RunPlan) -> None:
    """Raises UserError where a server that samples is not ready: GK540, GK541 and GK542."""
    if run_plan.sampling.refit_bucket_bytes and (found := tuple(not_ready(run_plan))):
        raise UserError(*found)


def _not_yet_run(run_plan: RunPlan) -> Iterator[Diagnostic]:
    """What was planned and what this executor has no code for."""
    layout = run_plan.layout
    if layout.backend == "nccl" and layout.kernels is Kernels.TORCH:
        for role in Role:
            degree = getattr(layout, role).context
            if degree > 1:
                yield planned_only(f"{role}.parallel.context", degree)


def planned_only(path: str, value: object) -> Diagnostic:
    """GK591."""
    return error(
        "GK591",
        f"`{path}` ({value}) is planned, but not yet run in gkdplan {__version__}",
        path,
        help=("take it out of the plan, or only plan with it: `gkdplan plan`",),
    )


def _not_here(run_plan: RunPlan) -> Iterator[Diagnostic]:
    """What the plan wants of this machine and does not find."""
    layout = run_plan.layout
    yield from too_little(run_plan)
    sampling, sees = run_plan.sampling, run_plan.models.student.shape.vision is not None
    asks_with_images = sees and sampling.refit_bucket_bytes > 0
    if (sampling.vllm is not None or asks_with_images) and not has_vllm():
        yield no_vllm()
    elif sees and run_plan.models.teacher.server is not None and not has_vllm():
        yield no_vllm_for_pixels()
    elif sampling.vllm is not None and sees and not can_see():
        yield cannot_see()
    if "wandb" in run_plan.training.loggers and not has_wandb():
        yield no_wandb()
    if layout.backend != "nccl":
        if run_plan.objective.loss_backend is LossBackend.COMPILED and not has_cpp_compiler():
            yield no_cpp_compiler()
        return
    num_wanted, num_found = layout.devices_per_node, torch.cuda.device_count()
    if num_found < num_wanted:
        yield error(
            "GK515",
            f"the plan wants {num_wanted} x {layout.device}, this machine has {num_found} GPUs",
            "cluster.devices_per_node",
            help=(
                "run it on the machine it was planned for; `gkdplan run --dry-run` "
                "shows its memory here",
            ),
        )
    yield from too_small(run_plan)
    if layout.kernels is Kernels.TRANSFORMER_ENGINE and not has_transformer_engine():
        yield no_transformer_engine()
