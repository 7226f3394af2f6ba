"""Rules of the objective and of where responses come from."""

from collections.abc import Iterator

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import DataFile, Facts
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.lora import lora_of
from gkdplan.planner.models import true_vocab_size
from gkdplan.planner.sources import dataset_share, effective_mix, effective_sft_alpha
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Role

NEAR_END = 0.01
COLDEST, HOTTEST = 0.01, 100.0
"""Temperatures between which float32 tells probabilities apart."""


@rule("GK410", Severity.WARNING)
def beta_is_not_near_an_end(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The divergence vanishes towards both ends; the KL divergences at them are other cases."""
    beta = plan.distill.beta
    for end, name in ((0.0, "forward KL"), (1.0, "reverse KL")):
        if 0 < abs(beta - end) < NEAR_END:
            yield Finding(
                f"`distill.beta` {beta:g} is near {end:g} but not at it",
                "distill.beta",
                label="the divergence and its gradient are almost zero here",
                notes=(f"{end:g} itself is the {name}, which is not the limit of what lies near",),
                help=(f"set `distill.beta` to {end:g} for the {name}, or away from the end",),
            )


@rule("GK411", Severity.WARNING)
def samples_have_an_engine(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Without an engine nothing is sampled: only the teacher's samples may be in a file."""
    lmbda, seq_kd = effective_mix(plan)
    file = "or name a file of the teacher's samples as `teacher.samples`"
    for key, value, effective, role, instead in (
        ("lmbda", plan.distill.lmbda, lmbda, Role.STUDENT, ()),
        ("seq_kd", float(plan.distill.seq_kd), seq_kd, Role.TEACHER, (file,)),
    ):
        if value > effective:
            yield Finding(
                f"`distill.{key}` {value:g} has no engine to sample with: no step learns from the "
                f"{role}'s samples",
                f"distill.{key}",
                label="its effective value is 0",
                help=(f'set `generation.engine` to "megatron", or `distill.{key}` to 0', *instead),
            )


@rule("GK412")
def dataset_steps_have_responses(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A step that learns from the dataset needs the response of every one of its rows."""
    lmbda, seq_kd = effective_mix(plan)
    share = dataset_share(plan)
    if share <= 0:
        return
    for index, file in enumerate(facts.train):
        if file.num_rows_with_response < file.num_rows:
            yield Finding(
                f"{_num_prompts(file)} of {file.path} have no response, and {share:.0%} of the "
                "steps learn from the dataset",
                f"data.train[{index}]",
                label="such a step has nothing to learn from these rows",
                notes=(f"effective lmbda = {lmbda:g}, seq_kd = {seq_kd:g}",),
                help=(
                    "set `distill.lmbda` or `distill.seq_kd` to 1, with `generation.engine` "
                    '"megatron", or give the rows responses',
                ),
            )


@rule("GK413")
def eval_rows_have_responses(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Held-out loss is measured on the dataset's own responses."""
    for index, file in enumerate(facts.eval):
        if file.num_rows_with_response < file.num_rows:
            yield Finding(
                f"{_num_prompts(file)} of {file.path} have no response",
                f"data.eval[{index}]",
                label="evaluation measures the loss on responses",
                help=("give the rows responses, or leave the file out",),
            )


@rule("GK495")
def answered_prompts_are_there(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Every prompt that is to be answered is a held-out row."""
    num_rows = sum(file.num_rows for file in facts.eval)
    asked = plan.run.eval_samples
    if facts.eval and asked > num_rows:
        yield Finding(
            f"`run.eval_samples` asks for answers to {asked:,} held-out prompts, and `data.eval` "
            f"has {num_rows:,} rows",
            "run.eval_samples",
            label="there are no more prompts",
            help=(f"lower it to {num_rows}, or add rows to `data.eval`",),
        )


@rule("GK414")
def temperatures_can_be_computed(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Logits over a tiny temperature overflow float32, and a huge one makes all tokens alike."""
    for key in ("temperature", "loss_temperature", "sampling_temperature"):
        value = getattr(plan.distill, key)
        if value and not COLDEST <= value <= HOTTEST:
            greedy = ", or 0 for the likeliest token" if key == "sampling_temperature" else ""
            yield Finding(
                f"`distill.{key}` {value:g} is not between {COLDEST:g} and {HOTTEST:g}",
                f"distill.{key}",
                label="float32 cannot tell the probabilities apart",
                help=(f"write a temperature from {COLDEST:g} to {HOTTEST:g}{greedy}",),
            )


@rule("GK415", Severity.WARNING)
def held_out_rows_are_not_trained_on(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A file of both lists shares its first rows."""
    for index, file in enumerate(facts.eval):
        same = [train for train in facts.train if train.fingerprint == file.fingerprint]
        if same:
            num_shared = min(file.num_rows, max(train.num_rows for train in same))
            yield Finding(
                f"{num_shared:,} of {file.num_rows:,} held-out rows of {file.path} are trained on",
                f"data.eval[{index}]",
                label=f"{same[0].path} in `data.train` has the same rows",
                help=("hold out rows that `data.train` does not name",),
            )


@rule("GK417")
def top_k_is_within_the_vocabulary(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The teacher has no more ids to keep than the vocabulary has."""
    num_ids, server = true_vocab_size(facts), plan.teacher.server
    path, top_k = "distill.top_k", plan.distill.top_k
    instead = ', or `distill.payload` to "hidden", which knows all ids'
    if server is not None:
        path, top_k, instead = "teacher.server.top_k", server.top_k, ""
    if top_k is not None and top_k > num_ids:
        yield Finding(
            f"`{path}` {top_k:,} is more than the {num_ids:,} ids of the vocabulary",
            path,
            label="of no token are there so many",
            help=(f"set `{path}` to at most {num_ids:,}{instead}",),
        )


@rule("GK428", Severity.WARNING)
def a_teacher_differs_from_its_student(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Where both are one distribution the divergence and its gradient are zero; the cross-entropy
    of the dataset's responses, or dropped inputs of adapters, take the student away from there."""
    is_dropped = plan.student.tuning == "lora" and lora_of(plan.student).dropout > 0
    if plan.teacher.self_ is None or effective_sft_alpha(plan) > 0 or is_dropped:
        return
    share = dataset_share(plan)
    dataset = "" if share > 0 else ", and `distill.lmbda` and `distill.seq_kd` below 1"
    yield Finding(
        f'`teacher.self = "{plan.teacher.self_}"` gives a teacher that agrees with its student '
        "from the first step on",
        "teacher.self",
        label="nothing takes the student away from it",
        notes=(
            "the divergence of two equal distributions is zero, and so is its gradient",
            f"{share:.0%} of the steps learn from the dataset, `distill.sft_alpha` = "
            f"{plan.distill.sft_alpha:g}",
        ),
        help=(f"set `distill.sft_alpha` above 0{dataset}",),
    )


RULES = (
    a_teacher_differs_from_its_student,
    beta_is_not_near_an_end,
    samples_have_an_engine,
    dataset_steps_have_responses,
    eval_rows_have_responses,
    answered_prompts_are_there,
    temperatures_can_be_computed,
    held_out_rows_are_not_trained_on,
    top_k_is_within_the_vocabulary,
)


def _num_prompts(file: DataFile) -> str:
    return f"{file.num_rows - file.num_rows_with_response:,} of {file.num_rows:,} rows"
