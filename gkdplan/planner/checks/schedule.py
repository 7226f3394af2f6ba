"""Rules of the schedule: batches, rows, steps, learning rates and lengths."""

from collections.abc import Iterator
from math import ceil

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.laid_out import LaidOut, laid_out
from gkdplan.planner.checks.rule import Finding, one_of, rule
from gkdplan.planner.drafting import num_steps, num_train_rows
from gkdplan.planner.layout import axis_degrees, world_size_of
from gkdplan.planner.sources import samples_itself
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Dtype, Role

LARGEST_MICRO = 4096
"""Rows; no device works on more at one time."""


@rule("GK420")
def global_batch_divides(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """global % (micro x data), for each model's data ranks
    (megatron/core/num_microbatches_calculator.py)."""
    micro, rows = plan.batch.micro, plan.batch.global_
    for model in laid_out(plan, facts):
        data = axis_degrees(model.parallel, model.world_size).data
        if not data or rows % (micro * data) == 0:
            continue
        whole = rows // (micro * data)
        globals_ = (n * micro * data for n in (whole, whole + 1) if n)
        yield Finding(
            f"a global batch of {rows:,} rows is not divisible by {micro * data:,}",
            "batch.global",
            label=f"micro-batches of {micro:,} x {data:,} data ranks{_whose(model)}",
            help=(
                f"set `batch.global` to {one_of(globals_)}",
                *(f"set `batch.micro` to {m}" for m in _nearest_micro(micro, rows, data)),
            ),
        )


@rule("GK421")
def rows_fill_a_global_batch(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """An epoch is made of whole global batches, so it needs the rows of one at least."""
    rows = num_train_rows(facts)
    if rows < plan.batch.global_:
        yield Finding(
            f"{rows:,} rows do not fill a global batch of {plan.batch.global_:,}",
            "batch.global",
            label="no step could run",
            notes=tuple(f"{file.num_rows:,} rows in {file.path}" for file in facts.train),
            help=_fewer_rows_a_step(plan, rows),
        )


@rule("GK422", Severity.NOTE)
def rows_are_left_over(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The rows after the last whole global batch of an epoch are not used in that epoch."""
    rows, size = num_train_rows(facts), plan.batch.global_
    if rows >= size and rows % size:
        yield Finding(
            f"{rows % size:,} of {rows:,} rows are left out of every epoch: they fill no global "
            f"batch of {size:,}",
            "batch.global",
        )


@rule("GK423", Severity.WARNING)
def warmup_ends_before_the_run(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A warm-up as long as the run never reaches the schedule's fall."""
    total = num_steps(plan, facts)
    warmup = ceil(plan.optimizer.warmup_fraction * total)
    if total and warmup >= total:
        yield Finding(
            f"the warm-up takes all {total:,} steps",
            "optimizer.warmup_fraction",
            label=f"the rate reaches {plan.optimizer.lr:g} only at the last step",
        )


@rule("GK424")
def rows_fit_positions(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Neither model has seen positions past max_position_embeddings."""
    prompt, response = plan.data.max_length, plan.generation.max_completion_length
    for model in {m.name: m for m in (facts.student, facts.teacher)}.values():
        positions = model.shape.max_position_embeddings
        if prompt + response > positions:
            help = [
                f"set `{key}` to at most {positions - other}"
                for key, other in (
                    ("data.max_length", response),
                    ("generation.max_completion_length", prompt),
                )
                if positions > other
            ]
            yield Finding(
                f"rows of {prompt + response:,} tokens exceed the {positions:,} positions of "
                f"{model.name}",
                "data.max_length",
                label=f"{prompt:,} of the prompt and {response:,} of the response",
                notes=(f"max_position_embeddings = {positions:,}, from {model.origin}",),
                help=tuple(help),
            )


@rule("GK425", Severity.WARNING)
def bf16_is_slow_on_a_cpu(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """CPUs compute bf16 by way of fp32, unless they have instructions for it."""
    if facts.device.backend != "gloo":
        return
    for role, dtype in ((Role.STUDENT, plan.student.dtype), (Role.TEACHER, plan.teacher.dtype)):
        if dtype is Dtype.BF16:
            yield Finding(
                "bf16 on a cpu is slower than fp32 and less exact",
                f"{role}.dtype",
                label="fp32 is what a cpu computes in",
                help=(f'set `{role}.dtype` to "fp32"',),
            )


@rule("GK426")
def a_streamed_teacher_does_not_sample(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """For every token that it samples all of its layers would come from the host."""
    if plan.teacher.stream and samples_itself(plan):
        yield Finding(
            "a teacher that is streamed layer by layer cannot sample responses",
            "teacher.stream",
            label="for each token all of its layers would travel",
            notes=(f"distill.seq_kd = {float(plan.distill.seq_kd):g}",),
            help=(
                "sample once with `gkdplan sample` and name the file in `teacher.samples`",
                "or remove `teacher.stream`, or set `distill.seq_kd` to 0",
            ),
        )


RULES = (
    a_streamed_teacher_does_not_sample,
    global_batch_divides,
    rows_fill_a_global_batch,
    rows_are_left_over,
    warmup_ends_before_the_run,
    rows_fit_positions,
    bf16_is_slow_on_a_cpu,
)


def _whose(model: LaidOut) -> str:
    """Nothing where both models have the same data ranks."""
    return "" if len(model.roles) > 1 else f" of {model.name}"


def _data_ranks(plan: Plan) -> int:
    """Of the student; 1 where an impossible layout leaves none."""
    return max(1, axis_degrees(plan.student.parallel, world_size_of(plan.cluster)).data)


def _fewer_rows_a_step(plan: Plan, rows: int) -> tuple[str, ...]:
    """The largest global batch that the rows fill, if there is one."""
    unit = plan.batch.micro * _data_ranks(plan)
    largest = rows // unit * unit
    return (f"set `batch.global` to {largest}, or add rows",) if largest else ("add rows",)


def _nearest_micro(micro: int, rows: int, data: int) -> tuple[int, ...]:
    """The largest micro-batch of at most `micro` rows that divides a rank's rows, if any."""
    rows_per_rank = rows // data
    if rows % data:
        return ()
    largest = min(micro, rows_per_rank, LARGEST_MICRO)
    return (next(m for m in range(largest, 0, -1) if rows_per_rank % m == 0),)
