"""What plan and facts decide before memory is priced: the nouns of a run plan but its ledger."""

import math
from dataclasses import dataclass, fields, replace

from gkdplan.facts.model import DataFile, Facts
from gkdplan.pictures import USUAL_LIMITS, PictureLimits
from gkdplan.planner.engine import decide_vllm, most_images, refit_bucket_bytes
from gkdplan.planner.layout import assign_ranks, token_multiple
from gkdplan.planner.models import decide_inputs, decide_models, round_up
from gkdplan.planner.zigzag import most_response_tokens
from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.layout import AxisDegrees, Layout
from gkdplan.runplan.model import (
    BatchPlan,
    DataPlan,
    DataSource,
    Inputs,
    ModelPlan,
    Models,
    Objective,
    OptimizerPlan,
    RunPlan,
    Training,
)
from gkdplan.runplan.sampling import Sampling
from gkdplan.runplan.steps import Draw
from gkdplan.shape import ModelShape
from gkdplan.spec.plan import Plan
from gkdplan.units import parse_bytes
from gkdplan.vocab import Engine, LossBackend, Payload, Role, Source, Tier

CHUNK_TOKENS = {"gloo": 256, "nccl": 1024}
"""Response tokens whose logits exist at one time: small enough for a cache, large enough to fill
matrix units."""

LOSS_BACKEND = {"gloo": LossBackend.EAGER, "nccl": LossBackend.TRITON}
"""The default of the plan."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Fields as in `runplan.model.RunPlan`."""

    name: str
    inputs: Inputs
    models: Models
    layout: Layout
    objective: Objective
    sampling: Sampling
    data: DataPlan
    batch: BatchPlan
    optimizer: OptimizerPlan
    training: Training

    @property
    def rows_per_rank(self) -> int:
        """Rows of one global batch that one data rank works on."""
        return self.batch.num_micro_batches * self.batch.micro_rows

    def num_micro_batches(self, degrees: AxisDegrees) -> int:
        """Of a global batch on one data rank of a model."""
        return max(1, self.batch.global_rows // (self.batch.micro_rows * degrees.data))

    def sequence_tokens(self, degrees: AxisDegrees) -> int:
        """Tokens of the longest row, padded so that every axis that splits rows can do so."""
        longest = self.data.max_length + self.sampling.max_completion_length
        return round_up(longest, token_multiple(degrees))

    def image_tokens_of_row(self, shape: ModelShape) -> int:
        """Of as many images as rows show to a model of this shape, and as a prompt has room for."""
        if shape.vision is None or self.data.pictures is None:
            return 0
        return shape.vision.most_tokens(self.data.pictures.number, self.data.max_length)

    def response_tokens(self, degrees: AxisDegrees, ranks: tuple[int, int] | None = None) -> int:
        """Of a row that fills the plan, on the rank of the context axis that has most of them: of
        the run `ranks` of rank numbers, or of all."""
        return most_response_tokens(
            self.data.max_length,
            self.sampling.max_completion_length,
            self.sequence_tokens(degrees),
            degrees.context,
            None if ranks is None else degrees.contexts_of(*ranks),
        )


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


def draft_of(run_plan: RunPlan) -> Draft:
    """What a run plan was priced from."""
    return Draft(**{field.name: getattr(run_plan, field.name) for field in fields(Draft)})


def effective_mix(plan: Plan) -> tuple[float, float]:
    """lmbda and seq_kd as they will act: without an engine nothing can be sampled, and only the
    teacher's samples may be there already."""
    lmbda, seq_kd = plan.distill.lmbda, float(plan.distill.seq_kd)
    if plan.generation.engine is not Engine.NONE:
        return lmbda, seq_kd
    return 0.0, 0.0 if plan.teacher.samples is None else seq_kd


def takes_samples(plan: Plan) -> bool:
    """Whether a step takes the teacher's samples from a file."""
    return plan.teacher.samples is not None and _shares(plan)[Source.TEACHER] > 0


def samples_itself(plan: Plan) -> bool:
    """Whether a step has the teacher sample, on the ranks."""
    is_here = plan.teacher.server is None and plan.teacher.samples is None
    return is_here and _shares(plan)[Source.TEACHER] > 0


def is_sampled(plan: Plan) -> bool:
    """Whether a step has a model sample."""
    shares = _shares(plan)
    return shares[Source.STUDENT] > 0 or (
        shares[Source.TEACHER] > 0 and plan.teacher.samples is None
    )


def sampling_temperature(plan: Plan) -> float:
    override = plan.distill.sampling_temperature
    return plan.distill.temperature if override is None else override


def loss_temperature(plan: Plan) -> float:
    return plan.distill.loss_temperature or plan.distill.temperature


def dataset_share(plan: Plan) -> float:
    """Of the steps, those that learn from the dataset's responses."""
    return _shares(plan)[Source.DATASET]


def effective_sft_alpha(plan: Plan) -> float:
    """The weight of the cross-entropy, which only steps on the dataset's responses have."""
    return plan.distill.sft_alpha if dataset_share(plan) > 0 else 0.0


def sampling_roles(draft: Draft) -> tuple[tuple[Source, Role], ...]:
    """Who samples responses in some step, with the source that such a step has: a teacher whose
    samples are in a file does not."""
    objective = draft.objective
    shares = share_of_sources(Draw(draft.training.seed, objective.lmbda, objective.seq_kd))
    roles = [(Source.STUDENT, Role.STUDENT)]
    if draft.data.samples is None:
        roles.append((Source.TEACHER, Role.TEACHER))
    return tuple((source, role) for source, role in roles if shares[source] > 0)


def engine_of(draft: Draft, role: Role) -> Engine:
    """What samples the responses of one of the models. The plan's engine holds the student's
    weights only: a teacher samples where it is, by Megatron's own generation from the weights that
    the ranks have anyway, or behind its server of vllm."""
    if role is Role.STUDENT:
        return draft.sampling.engine
    return Engine.MEGATRON if draft.models.teacher.server is None else Engine.VLLM


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


def _shares(plan: Plan) -> dict[Source, float]:
    return share_of_sources(Draw(plan.run.seed, *effective_mix(plan)))


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


def shown_pictures(plan: Plan, facts: Facts) -> PictureLimits:
    """No more of them than the rows show."""
    return replace(picture_limits(plan), number=most_images(facts))


def picture_limits(plan: Plan) -> PictureLimits:
    """Of what a row may show."""
    data, usual = plan.data, USUAL_LIMITS
    size = data.max_image_bytes
    return PictureLimits(
        data.max_images or usual.number,
        usual.num_bytes if size is None else parse_bytes(size),
        data.max_image_pixels or usual.num_pixels,
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
