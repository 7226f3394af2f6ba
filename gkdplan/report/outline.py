"""The outline of a run plan: every decision, the memory table and the steps, in plain text."""

from collections.abc import Iterator

from gkdplan.report import words
from gkdplan.report.figures import unit_of
from gkdplan.report.memory import memory_tables
from gkdplan.report.moves import not_prefetched
from gkdplan.report.objective import objective_card
from gkdplan.report.step_words import sentence, verb
from gkdplan.report.timing import timing_section
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import RunPlan
from gkdplan.units import format_count

_LABEL_WIDTH = 12


def outline(run_plan: RunPlan, width: int = 80) -> str:
    """What a person reviews before a run; no line is wider than `width`, whatever the names."""
    parts = (header(run_plan, width), *decisions(run_plan, width))
    sections = (
        "\n".join(parts),
        objective_card(run_plan, width),
        memory_tables(run_plan, width),
        timing_section(run_plan, width),
        step_list(run_plan, width),
    )
    return "\n\n".join(sections)


def header(run_plan: RunPlan, width: int = 80) -> str:
    """Name, devices and verdict: `fits: peak 61.3 of 80.0 GiB in student`."""
    ledger, unit = run_plan.ledger, unit_of(run_plan)
    peak, budget = unit.format(ledger.peak_bytes), unit.format(ledger.budget_bytes)
    verdict = f"{ledger.verdict}: peak {peak} of {budget} {unit.name} in {ledger.peak_phase}"
    parts = [run_plan.name, words.devices(run_plan.layout), verdict]
    line = "    ".join(parts)
    return line if len(line) <= width else "\n".join(wrap("", part, width) for part in parts)


def decisions(run_plan: RunPlan, width: int) -> Iterator[str]:
    """One labelled line or more a decision."""
    for label, text in labelled(run_plan):
        yield wrap(label.ljust(_LABEL_WIDTH), text, width)


def labelled(run_plan: RunPlan) -> list[tuple[str, str]]:
    """(label, sentence) of every decision but the objective, memory and steps."""
    models = run_plan.models
    student, teacher = models.student, models.teacher
    names = [words.short_name(student), words.short_name(teacher)]
    counts = [format_count(student.num_parameters), format_count(teacher.num_parameters)]
    name_width, count_width = max(map(len, names)), max(map(len, counts))
    of_student = words.origin_of_student(student) + words.rest_of_student(student)
    about = [of_student, words.residence_of_teacher(teacher)]
    model_lines = [
        f"{name:<{name_width}}  {count:>{count_width}}  {model.dtype}  {text}"
        for name, count, model, text in zip(names, counts, (student, teacher), about, strict=True)
    ]
    return [
        ("student", model_lines[0]),
        ("teacher", model_lines[1]),
        ("layout", words.layout(run_plan)),
        *_pipeline(run_plan),
        ("data", words.data(run_plan)),
        ("batch", words.batch(run_plan)),
        ("optimizer", words.optimizer(run_plan)),
        ("run", words.training(run_plan)),
    ]


def _pipeline(run_plan: RunPlan) -> Iterator[tuple[str, str]]:
    """What only some plans decide."""
    models, student = run_plan.models, run_plan.models.student
    if len(student.stage_layers) + len(models.teacher.stage_layers) > 2:
        yield "stages", words.stages(student, models.teacher)
    if student.freeze is not None and (student.lora is None or student.learning_eyes):
        yield "learns", words.parts_that_learn(student.freeze, student.lora)
    if student.lora is not None:
        rest = "the rest of the decoder" if student.learning_eyes else "the rest"
        yield "lora", words.lora(student.lora, rest)
    if student.recompute.granularity != "none":
        yield "recompute", words.recompute(student.recompute)
    if run_plan.schedule.choices:
        yield "offload", words.offload(run_plan.schedule.choices)
    if run_plan.schedule.not_prefetched:
        yield "prefetch", "; ".join(not_prefetched(run_plan))


def step_list(run_plan: RunPlan, width: int = 80) -> str:
    """The numbered steps of one global batch."""
    lines = [wrap("steps of a global batch: ", words.batch(run_plan), width)]
    for number, step in enumerate(run_plan.steps, start=1):
        lines.append(wrap(f"{number:2d} {verb(step):<10}  ", sentence(step), width))
    return "\n".join(lines)
