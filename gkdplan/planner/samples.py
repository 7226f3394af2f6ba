"""A plan that only samples, and what its samples are."""

from gkdplan.facts.model import Facts
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Generate
from gkdplan.samples import SAMPLES_VERSION, Manifest, SampledFile, text_fingerprint
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Engine, Role


def sampling_plan(plan: Plan, role: Role) -> Plan:
    """The plan with every step on `role`'s samples, and without what training alone asks for; an
    `engine` of "none" becomes Megatron's own generation."""
    engine = plan.generation.engine
    own = Engine.MEGATRON if engine is Engine.NONE else engine
    lmbda = float(role is Role.STUDENT)
    changes = {
        "distill": {"lmbda": lmbda, "seq_kd": 1 - lmbda, "sft_alpha": 0.0},
        "generation": {"engine": own},
        "teacher": {"samples": None},
        "data": {"eval": ()},
        "optimizer": {"offload": "none", "prefetch": None},
        "run": {"loggers": ()},
    }
    tables = {
        name: getattr(plan, name).model_copy(update=update) for name, update in changes.items()
    }
    return plan.model_copy(update=tables)


def manifest_of_plan(run_plan: RunPlan, facts: Facts, role: Role, weights: str | None) -> Manifest:
    """What the samples that `run_plan` draws of `role`'s model are; `weights` is the fingerprint of
    those. The student's tokenizer was seen."""
    sampling, tokenizer = run_plan.sampling, facts.student.tokenizer
    model = getattr(run_plan.models, role)
    assert tokenizer is not None
    return Manifest(
        version=SAMPLES_VERSION,
        tool=run_plan.tool,
        role=role,
        model=model.model,
        revision=model.revision,
        weights=weights,
        dtype=model.dtype,
        tokenizer=tokenizer.fingerprint,
        chat_template=text_fingerprint(tokenizer.chat_template),
        engine=_engine(run_plan, role),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_completion_length=sampling.max_completion_length,
        seed=run_plan.training.seed,
        max_length=run_plan.data.max_length,
        truncation=run_plan.data.truncation,
        data=tuple(SampledFile(s.path, s.num_rows, s.fingerprint) for s in run_plan.data.train),
    )


def _engine(run_plan: RunPlan, role: Role) -> Engine:
    """What draws them."""
    drawn = [step for step in run_plan.steps if isinstance(step, Generate) and step.role is role]
    return drawn[0].engine
