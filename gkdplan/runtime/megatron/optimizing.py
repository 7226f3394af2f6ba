"""Megatron's data-parallel wrapper, optimizer and schedule, as a plan sets them up."""

from collections.abc import Sequence
from typing import Any

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from gkdplan.runplan.model import OptimizerPlan
from gkdplan.runtime.megatron import platform


def reduced(chunks: Sequence[GPTModel], plan: OptimizerPlan) -> list[DistributedDataParallel]:
    """Chunks whose gradients are accumulated and reduced over the data axis, in float32."""
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=plan.distributed
    )
    with platform.megatron_calls():
        return [DistributedDataParallel(chunk.config, settings, chunk) for chunk in chunks]


def adam_of(ddps: list[DistributedDataParallel], plan: OptimizerPlan) -> Any:
    """Megatron's chain of optimizers over chunks of one model."""
    config = ddps[0].module.config
    settings = OptimizerConfig(
        optimizer="adam",
        lr=plan.lr,
        min_lr=plan.min_lr,
        weight_decay=plan.weight_decay,
        adam_beta1=plan.betas[0],
        adam_beta2=plan.betas[1],
        adam_eps=plan.eps,
        clip_grad=plan.clip_grad,
        bf16=config.bf16,
        params_dtype=config.params_dtype,
        use_distributed_optimizer=plan.distributed,
    )
    with platform.megatron_calls():
        return get_megatron_optimizer(settings, ddps, use_gloo_process_groups=False)


def schedule_of(optimizer: Any, plan: OptimizerPlan, num_steps: int) -> OptimizerParamScheduler:
    """The rate of each of `num_steps` updates; decay begins after the warmup."""
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=plan.lr,
        min_lr=plan.min_lr,
        lr_warmup_steps=plan.warmup_steps,
        lr_decay_steps=max(num_steps, plan.warmup_steps + 1),
        lr_decay_style=plan.schedule,
        start_wd=plan.weight_decay,
        end_wd=plan.weight_decay,
        wd_incr_steps=num_steps,
        wd_incr_style="constant",
    )
