"""Where the responses of steps come from: the dataset, a model that samples, a file of samples."""

from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.steps import Draw
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Engine, Source


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


def dataset_share(plan: Plan) -> float:
    """Of the steps, those that learn from the dataset's responses."""
    return _shares(plan)[Source.DATASET]


def effective_sft_alpha(plan: Plan) -> float:
    """The weight of the cross-entropy, which only steps on the dataset's responses have."""
    return plan.distill.sft_alpha if dataset_share(plan) > 0 else 0.0


def _shares(plan: Plan) -> dict[Source, float]:
    return share_of_sources(Draw(plan.run.seed, *effective_mix(plan)))
