"""The parts of the page that show what was decided."""

from collections.abc import Mapping, Sequence

from gkdplan.report import objective, words
from gkdplan.report.markup import Markup, section, tag
from gkdplan.report.memory import budget, ranks_of
from gkdplan.report.memory_chart import memory_chart, memory_figures, residency_chart
from gkdplan.report.outline import labelled
from gkdplan.report.run_chart import source_legend
from gkdplan.report.step_words import sentence, verb
from gkdplan.runplan.draw import source_of_step
from gkdplan.runplan.model import AxisDegrees, RunPlan
from gkdplan.runplan.steps import Draw
from gkdplan.vocab import Phase

_MAX_CELLS = 256
_MAX_COLUMNS = 40


def plan_sections(run_plan: RunPlan, measured: Mapping[Phase, int]) -> list[Markup]:
    """Memory, residency, sources, layout, steps and decisions.

    `measured` has the peaks of the first class of ranks, of the phases that were measured.
    """
    memory = [
        part
        for index, memory in enumerate(run_plan.ledger.classes)
        for part in (
            tag("p", ranks_of(memory.ranks), class_="ranks"),
            memory_chart(run_plan, memory, measured if index == 0 else {}),
            tag(
                "details",
                tag("summary", "the figures"),
                memory_figures(run_plan, memory),
            ),
        )
    ]
    caption = "planned, and measured where it ran" if measured else "planned, by phase of a step"
    sections = [section("Memory", caption, *memory, tag("p", budget(run_plan)))]
    if run_plan.schedule.moves:
        parts = [residency_chart(run_plan), _moves(run_plan)]
        sections.append(section("Residency", "where each object lies, by phase", *parts))
    return [
        *sections,
        section("Objective", objective.TITLE, _rows(objective.card_rows(run_plan))),
        section("Sources", "what each step learns from", *_sources(run_plan)),
        section("Layout", words.layout(run_plan.layout), *_layout(run_plan)),
        section("Steps", f"of a global batch: {words.batch(run_plan)}", _steps(run_plan)),
        section("Decisions", "", _rows(labelled(run_plan))),
    ]


def _moves(run_plan: RunPlan) -> Markup:
    items = [
        tag(
            "li",
            f"before {move.phase}: ",
            tag("span", verb(move), class_="verb"),
            f" {sentence(move)}",
        )
        for move in run_plan.schedule.moves
    ]
    return tag("ul", *items, class_="moves")


def _sources(run_plan: RunPlan) -> list[Markup]:
    """The mixture as one bar, then a cell a step: the draw is known before the run."""
    shares = [
        tag(
            "span",
            f"{share:.0%}",
            class_=f"segment source-{source}",
            style=f"width:{100 * share:.3f}%",
            title=f"{objective.SOURCE_NAMES[source]}: {steps}",
        )
        for source, share, steps in objective.mixture(run_plan)
    ]
    parts = [tag("div", tag("span", *shares, class_="track"), class_="bar shares")]
    chosen, training = run_plan.objective, run_plan.training
    draw = Draw(training.seed, chosen.lmbda, chosen.seq_kd)
    if training.num_steps <= _MAX_CELLS:
        drawn = [(step, source_of_step(draw, step)) for step in range(1, training.num_steps + 1)]
        cells = [tag("span", class_=f"source-{s}", title=f"step {n}: {s}") for n, s in drawn]
        columns = f"--columns:{min(len(cells), _MAX_COLUMNS)}"
        parts.append(tag("div", *cells, class_="strip", style=columns))
    present = [source for source, _, _ in objective.mixture(run_plan)]
    return [*parts, source_legend(present), tag("p", objective.sources(run_plan))]


def _layout(run_plan: RunPlan) -> list[Markup]:
    student, teacher = run_plan.layout.student, run_plan.layout.teacher
    if student == teacher:
        return [_mesh(student, "ranks")]
    return [_mesh(student, "the student's ranks"), _mesh(teacher, "the teacher's ranks")]


def _mesh(axes: AxisDegrees, name: str) -> Markup:
    """A row a data rank, a column a tensor rank, while they can be told apart."""
    if axes.tensor * axes.data > _MAX_CELLS:
        return tag("p", f"{name}: {words.degrees(axes)}")
    ranks = [
        tag("span", str(rank), title=f"rank {rank}") for rank in range(axes.tensor * axes.data)
    ]
    grid = tag("div", *ranks, class_="mesh", style=f"--columns:{axes.tensor}")
    caption = f"{name}: tensor across, data down"
    return tag("figure", tag("figcaption", caption), grid)


def _steps(run_plan: RunPlan) -> Markup:
    items = [
        tag("li", tag("span", verb(step), class_=f"verb {verb(step)}"), tag("span", sentence(step)))
        for step in run_plan.steps
    ]
    return tag("ol", *items, class_="steps")


def _rows(labelled_rows: Sequence[tuple[str, str]]) -> Markup:
    rows = [tag("div", tag("dt", label), tag("dd", text)) for label, text in labelled_rows]
    return tag("dl", *rows)
