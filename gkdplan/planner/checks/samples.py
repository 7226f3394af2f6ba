"""Rules of samples that are kept in a file: they are what this plan would draw of its teacher."""

from collections.abc import Iterator

from gkdplan.facts.model import DataFile, Facts, SamplesFile
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.models import named_teacher
from gkdplan.planner.sources import sampling_temperature, takes_samples
from gkdplan.samples import SampledFile, text_fingerprint
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Role

KEY = "teacher.samples"
AGAIN = "sample again into another file: `gkdplan sample PLAN --source teacher -o FILE`"


@rule("GK441")
def samples_are_the_teachers(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Where weights were seen on both sides they decide, and the names do where they were not."""
    samples = _samples(plan, facts)
    if samples is None:
        return
    theirs = samples.manifest
    if theirs.role is not Role.TEACHER:
        yield Finding(
            f"{samples.path} holds the student's samples, and steps learn from the teacher's",
            KEY,
            label=f'it was written with "--source {theirs.role}"',
            help=(AGAIN,),
        )
        return
    weights = theirs.weights, samples.teacher_weights
    names = _named(theirs.model, theirs.revision), _named(*named_teacher(plan))
    are_known, is_named = None not in weights, names[0] == names[1]
    if weights[0] == weights[1] if are_known else is_named:
        return
    other = f"samples of {names[0]}, and the teacher is {names[1]}"
    yield Finding(
        f"{samples.path} holds {'samples of other weights' if is_named else other}",
        KEY,
        label=f"those of {names[1]} are others" if are_known else "it may be another model",
        notes=_fingerprints("weights", *weights) if are_known else (),
        help=(AGAIN,) if is_named else (AGAIN, f"or take their teacher: {names[0]}"),
    )


@rule("GK442")
def samples_have_the_plans_tokens(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Responses are token ids, to prompts that the student's chat template has rendered."""
    samples, tokenizer = _samples(plan, facts), facts.student.tokenizer
    if samples is None or tokenizer is None:
        return
    template = text_fingerprint(tokenizer.chat_template)
    for what, theirs, ours in (
        ("tokenizer", samples.manifest.tokenizer, tokenizer.fingerprint),
        ("chat template", samples.manifest.chat_template, template),
    ):
        if theirs != ours:
            yield Finding(
                f"{samples.path} was sampled under another {what} than the student's",
                KEY,
                label="its ids answer other prompts, or mean other tokens",
                notes=_fingerprints(what, theirs, ours),
                help=(AGAIN,),
            )


@rule("GK443")
def samples_are_drawn_as_the_plan_says(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """At a temperature of 0 the likeliest token is taken, whatever `top_p` and `top_k` are."""
    samples = _samples(plan, facts)
    if samples is None:
        return
    theirs, generation = samples.manifest, plan.generation
    is_written = plan.distill.sampling_temperature is not None
    temperature = "distill.sampling_temperature" if is_written else "distill.temperature"
    differences: list[tuple[str, float | None, float | None]] = [
        (temperature, theirs.temperature, sampling_temperature(plan)),
        (
            "generation.max_completion_length",
            theirs.max_completion_length,
            generation.max_completion_length,
        ),
    ]
    if theirs.temperature or sampling_temperature(plan):
        differences += [
            ("generation.top_p", theirs.top_p, generation.top_p),
            ("generation.top_k", theirs.top_k, generation.top_k),
        ]
    for path, their_value, value in differences:
        if their_value != value:
            set_key = "distill.sampling_temperature" if path == "distill.temperature" else path
            yield Finding(
                f"{samples.path} was sampled with `{path}` {_shown(their_value)}, and the plan's "
                f"is {_shown(value)}",
                path,
                label="samples are drawn in one way",
                help=(_as_theirs(set_key, their_value), AGAIN),
            )


@rule("GK444")
def samples_answer_the_plans_rows(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The plan's rows are those that were sampled, or the first of them."""
    samples = _samples(plan, facts)
    if samples is None:
        return
    theirs = samples.manifest.data
    for index, file in enumerate(facts.train):
        is_last = index == len(facts.train) - 1
        if not _has_rows(file, theirs[index] if index < len(theirs) else None, is_last):
            yield Finding(
                f"{samples.path} has no samples of the rows of {file.path} at this place",
                f"data.train[{index}]",
                label=_sampled(theirs[index] if index < len(theirs) else None),
                notes=(f"the plan takes {file.num_rows:,} rows of sha256 {file.fingerprint[:12]}",),
                help=(f"set `data.train` to [{', '.join(map(_entry, theirs))}]", AGAIN),
            )
            return
    yield from _other_limits(plan, samples)


RULES = (
    samples_are_the_teachers,
    samples_have_the_plans_tokens,
    samples_are_drawn_as_the_plan_says,
    samples_answer_the_plans_rows,
)


def _samples(plan: Plan, facts: Facts) -> SamplesFile | None:
    """Those that a step learns from."""
    return facts.samples if takes_samples(plan) else None


def _has_rows(file: DataFile, sampled: SampledFile | None, is_last: bool) -> bool:
    """Rows are numbered through all files, so that only the last may have fewer."""
    if sampled is None or sampled.fingerprint != file.fingerprint:
        return False
    fewer = is_last and file.num_rows < sampled.num_rows
    return file.num_rows == sampled.num_rows or fewer


def _other_limits(plan: Plan, samples: SamplesFile) -> Iterator[Finding]:
    """Another limit cuts or leaves out other prompts, unless it only leaves out more of them, or
    all were known to be shorter."""
    theirs, data = samples.manifest, plan.data
    is_same = (theirs.max_length, theirs.truncation) == (data.max_length, data.truncation)
    leaves_out = theirs.truncation == data.truncation == "delete"
    leaves_out_more = leaves_out and data.max_length < theirs.max_length
    are_shorter = theirs.truncation == "error" and data.max_length >= theirs.max_length
    if is_same or leaves_out_more or are_shorter:
        return
    limits = f'{theirs.max_length:,} and "{theirs.truncation}"'
    is_length = theirs.max_length != data.max_length
    yield Finding(
        f"{samples.path} was sampled with `data.max_length` and `data.truncation` {limits}, and "
        f'the plan has {data.max_length:,} and "{data.truncation}"',
        "data.max_length" if is_length else "data.truncation",
        label="prompts may be other ones",
        help=(f"set them to {limits}", AGAIN),
    )


def _named(model: str, revision: str | None) -> str:
    return f"`{model}`" if revision is None else f"`{model}` at `{revision}`"


def _fingerprints(what: str, theirs: str | None, ours: str | None) -> tuple[str, ...]:
    short = [(value or "none")[:12] for value in (theirs, ours)]
    return (f"{what} of the samples: {short[0]}, of the plan: {short[1]}",)


def _sampled(file: SampledFile | None) -> str:
    if file is None:
        return "no file was sampled at this place"
    return f"sampled were {file.num_rows:,} rows of {file.path}, sha256 {file.fingerprint[:12]}"


def _entry(file: SampledFile) -> str:
    return f'"{file.path}#{file.num_rows}"'


def _shown(value: float | None) -> str:
    if value is None:
        return "left out"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}"


def _as_theirs(path: str, value: float | None) -> str:
    return f"remove `{path}`" if value is None else f"set `{path}` to {value}"
