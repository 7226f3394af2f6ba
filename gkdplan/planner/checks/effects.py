"""Keys that were written and that nothing in their plan reads."""

from collections.abc import Iterator

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.drafting import num_steps
from gkdplan.planner.models import true_vocab_size
from gkdplan.planner.sources import dataset_share, effective_mix, is_sampled, takes_samples
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Engine

Effectless = Iterator[tuple[str, str]]
"""Dotted keys, each with the reason why it has no effect."""

_OF_COLOCATED = ("generation.gpu_memory_utilization", "generation.sleep_level")
_OF_SAMPLING = ("distill.sampling_temperature", "generation.top_p", "generation.top_k")


@rule("GK430", Severity.WARNING)
def keys_have_an_effect(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Nothing that was asked for is ignored in silence."""
    for path, why in (*_of_sampling(plan, facts), *_of_sources(plan), *_of_the_run(plan, facts)):
        if _is_written(plan, path):
            yield Finding(
                f"`{path}` has no effect: {why}",
                path,
                label="nothing reads it",
                help=("remove it",),
            )


RULES = (keys_have_an_effect,)


def _of_sampling(plan: Plan, facts: Facts) -> Effectless:
    distill, generation = plan.distill, plan.generation
    if generation.mode == "colocate":
        for key in ("generation.server_key", "generation.server_patience_s"):
            yield key, "no server samples"
    if generation.engine is not Engine.VLLM:
        yield "generation.gpu_memory_utilization", "it is a share for vllm"
        yield "generation.sleep_level", "only vllm sleeps"
    elif generation.mode == "server":
        yield "generation.sleep_level", "a server stays awake"
        if effective_mix(plan)[0] == 0:
            yield "generation.staleness", "the student never samples"
    elif effective_mix(plan)[0] == 0:
        who = "the student never samples, and the teacher does without it"
        why = who if is_sampled(plan) else "no step samples, so that there is no engine"
        for key in (*_OF_COLOCATED, "generation.tensor"):
            yield key, why
    if generation.engine is Engine.NONE:
        yield "generation.tensor", '`generation.engine` is "none"'
    if not any(effective_mix(plan)):
        why = "`distill.lmbda` and `distill.seq_kd` are 0, so no step samples"
        why = '`generation.engine` is "none"' if generation.engine is Engine.NONE else why
        for key in _OF_SAMPLING:
            yield key, why
    elif distill.sampling_temperature == 0:
        for key in ("generation.top_p", "generation.top_k"):
            yield key, "at a sampling temperature of 0 the likeliest token is taken"
    elif generation.top_k is not None and generation.top_k >= true_vocab_size(facts):
        yield "generation.top_k", f"the vocabulary has only {true_vocab_size(facts):,} ids"


def _of_sources(plan: Plan) -> Effectless:
    distill = plan.distill
    if None not in (distill.loss_temperature, distill.sampling_temperature):
        yield "distill.temperature", "`loss_temperature` and `sampling_temperature` override it"
    if distill.lmbda == 1 and distill.seq_kd and plan.generation.engine is not Engine.NONE:
        yield "distill.seq_kd", "with `distill.lmbda` 1 every step learns from the student"
    if not takes_samples(plan):
        yield "teacher.samples", "no step learns from the teacher's samples"
    if dataset_share(plan) == 0:
        yield "distill.sft_alpha", "no step learns from the dataset's responses"


def _of_the_run(plan: Plan, facts: Facts) -> Effectless:
    run, steps = plan.run, num_steps(plan, facts)
    if run.save_interval is None:
        yield "run.keep", "without `run.save_interval` only the last step is saved"
    elif run.save_interval > steps > 0:
        yield "run.save_interval", f"the run has {steps:,} steps, and the last one is saved anyway"
    if not facts.eval:
        yield "run.eval_samples", "`data.eval` names no rows"
    if run.eval_interval and not facts.eval:
        yield "run.eval_interval", "`data.eval` names no rows"
    elif run.eval_interval > steps > 0:
        yield "run.eval_interval", f"the run has {steps:,} steps, and its ends are evaluated anyway"


def _is_written(plan: Plan, path: str) -> bool:
    table, _, key = path.partition(".")
    return key in getattr(plan, table).model_fields_set
