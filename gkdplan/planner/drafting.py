"""Every value that a plan leaves open, decided."""

import math

from gkdplan.facts.model import DataFile, Facts
from gkdplan.planner.draft import Draft
from gkdplan.planner.engine import decide_vllm, refit_bucket_bytes
from gkdplan.planner.layout import assign_ranks
from gkdplan.planner.models import decide_inputs, decide_models
from gkdplan.planner.pictures import shown_pictures
from gkdplan.planner.sources import (
    effective_mix,
    effective_sft_alpha,
    sampling_temperature,
    takes_samples,
)
from gkdplan.runplan.layout import Layout
from gkdplan.runplan.model import (
    BatchPlan,
    DataPlan,
    DataSource,
    Objective,
    OptimizerPlan,
    Training,
)
from gkdplan.runplan.models import ModelPlan, Models
from gkdplan.runplan.sampling import Sampling
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Engine, LossBackend, Payload, Tier

CHUNK_TOKENS = {"gloo": 256, "nccl": 1024}
"""Response tokens whose logits exist at one time: small enough for a cache, large enough to fill
matrix units."""
LOSS_BACKEND = {"gloo": LossBackend.EAGER, "nccl": LossBackend.TRITON}
"""The default of the plan."""


def draft(plan: Plan, facts: Facts) -> Draft:
    """Every value that the plan leaves open, decided; the checks have found the layout possible.

    An offload of "auto" is decided before: planner/auto_offload.py.
    """
    layout = assign_ranks(plan, facts.device)
    batch = _batch(plan, layout)
    models = decide_models(plan, facts, layout)
    return Draft(
        name=plan.name,
        inputs=decide_inputs(facts),
        models=models,
        layout=layout,
        objective=_objective(plan, layout, batch, models),
        sampling=_sampling(plan, models.student, facts),
        data=_data(plan, facts),
        batch=batch,
        optimizer=_optimizer(plan, facts),
        training=_training(plan, facts),
    )


def loss_temperature(plan: Plan) -> float:
    return plan.distill.loss_temperature or plan.distill.temperature


def num_train_rows(facts: Facts) -> int:
    return sum(file.num_rows for file in facts.train)


def num_steps(plan: Plan, facts: Facts) -> int:
    """`run.steps`, or the whole global batches of `run.epochs` passes (one, if left out)."""
    if plan.run.steps is not None:
        return plan.run.steps
    return (plan.run.epochs or 1) * (num_train_rows(facts) // plan.batch.global_)


def _batch(plan: Plan, layout: Layout) -> BatchPlan:
    micro, rows = plan.batch.micro, plan.batch.global_
    return BatchPlan(
        micro_rows=micro,
        global_rows=rows,
        num_micro_batches=max(1, rows // (micro * layout.student.data)),
    )


def _objective(plan: Plan, layout: Layout, batch: BatchPlan, models: Models) -> Objective:
    distill = plan.distill
    lmbda, seq_kd = effective_mix(plan)
    response_tokens = batch.micro_rows * plan.generation.max_completion_length
    return Objective(
        beta=distill.beta,
        lmbda=lmbda,
        seq_kd=seq_kd,
        loss_temperature=loss_temperature(plan),
        payload=_payload(plan, layout, models),
        chunk_tokens=min(CHUNK_TOKENS[layout.backend], response_tokens),
        top_k=distill.top_k if plan.teacher.server is None else plan.teacher.server.top_k,
        sft_alpha=effective_sft_alpha(plan),
        loss_backend=distill.loss_backend or LOSS_BACKEND[layout.backend],
    )


def _payload(plan: Plan, layout: Layout, models: Models) -> Payload:
    """Of "auto" what takes fewer bytes a token of the two that leave the objective as it is: the
    teacher's hidden state, or a rank's share of its logits. A server gives its likeliest ids."""
    if plan.teacher.server is not None:
        return Payload.TOP_K
    if plan.distill.payload != "auto":
        return Payload(plan.distill.payload)
    share_of_logits = models.teacher.padded_vocab_size // layout.student.tensor
    is_narrower = models.teacher.shape.hidden_size <= share_of_logits
    return Payload.HIDDEN if is_narrower else Payload.LOGITS


def server_urls(plan: Plan) -> tuple[str, ...]:
    """The servers that sample, in the plan's order."""
    url = plan.generation.server_url
    return (url,) if isinstance(url, str) else url or ()


def _sampling(plan: Plan, student: ModelPlan, facts: Facts) -> Sampling:
    is_refitted = plan.generation.engine is Engine.VLLM and effective_mix(plan)[0] > 0
    is_here = is_refitted and plan.generation.mode == "colocate"
    return Sampling(
        engine=plan.generation.engine,
        temperature=sampling_temperature(plan),
        top_p=plan.generation.top_p,
        top_k=plan.generation.top_k,
        max_completion_length=plan.generation.max_completion_length,
        server_urls=server_urls(plan),
        server_key=plan.generation.server_key,
        server_patience_s=plan.generation.server_patience_s,
        staleness=plan.generation.staleness if is_refitted else 0,
        refit_bucket_bytes=refit_bucket_bytes(student, is_here) if is_refitted else 0,
        vllm=decide_vllm(plan, student.shape, facts) if is_here else None,
    )


def _data(plan: Plan, facts: Facts) -> DataPlan:
    data = plan.data
    return DataPlan(
        train=tuple(map(_source, facts.train)),
        eval=tuple(map(_source, facts.eval)),
        max_length=data.max_length,
        truncation=data.truncation,
        shuffle=data.shuffle,
        samples=_samples(facts) if takes_samples(plan) else None,
        pictures=None if facts.student.shape.vision is None else shown_pictures(plan, facts),
        weights=data.weights,
        max_bad_rows=data.max_bad_rows,
        cache=data.cache,
    )


def _samples(facts: Facts) -> DataSource | None:
    file = facts.samples
    if file is None:
        return None
    return DataSource(file.path, None, file.num_rows, file.fingerprint)


def _source(file: DataFile) -> DataSource:
    return DataSource(file.path, file.limit, file.num_rows, file.fingerprint)


def _optimizer(plan: Plan, facts: Facts) -> OptimizerPlan:
    optimizer = plan.optimizer
    return OptimizerPlan(
        name=optimizer.name,
        lr=optimizer.lr,
        min_lr=optimizer.min_lr,
        schedule=optimizer.schedule,
        warmup_steps=math.ceil(optimizer.warmup_fraction * num_steps(plan, facts)),
        weight_decay=optimizer.weight_decay,
        betas=optimizer.betas,
        eps=optimizer.eps,
        clip_grad=optimizer.clip_grad,
        distributed=optimizer.distributed,
        offload=Tier.HOST if optimizer.offload == "cpu" else Tier.DEVICE,
        prefetch=optimizer.prefetch,
    )


def _training(plan: Plan, facts: Facts) -> Training:
    run = plan.run
    return Training(
        output=run.output or f"runs/{plan.name}",
        num_steps=num_steps(plan, facts),
        save_interval=run.save_interval,
        keep=run.keep,
        eval_interval=run.eval_interval,
        seed=run.seed,
        loggers=run.loggers,
        max_skipped_steps=run.max_skipped_steps,
        async_save=run.async_save,
        eval_samples=run.eval_samples,
    )
