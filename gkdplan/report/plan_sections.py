"""The parts of the page that show what was decided."""

from collections.abc import Iterator, Mapping, Sequence

from gkdplan.report import objective, words
from gkdplan.report.figures import ranks_of, unit_of
from gkdplan.report.markup import Markup, join, section, tag
from gkdplan.report.memory import budget, disk, host
from gkdplan.report.memory_chart import memory_chart, memory_figures, residency_table
from gkdplan.report.memory_table import other_classes
from gkdplan.report.moves import move_rows, not_prefetched
from gkdplan.report.outline import labelled
from gkdplan.report.residency_chart import residency_timeline
from gkdplan.report.run_chart import source_legend
from gkdplan.report.step_words import sentence, verb
from gkdplan.report.timing import TITLE, assumptions, timing_rows
from gkdplan.runplan.draw import source_of_step
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Draw
from gkdplan.vocab import Phase

_MAX_CELLS = 256
_MAX_COLUMNS, _MAX_ROWS = 40, 32


def plan_sections(run_plan: RunPlan, measured: Mapping[Phase, int]) -> list[Markup]:
    """Memory, residency, sources, layout, steps and decisions.

    `measured` has the peaks of the first class of ranks, of the phases that were measured.
    """
    caption = "planned, and measured where it ran" if measured else "planned, by phase of a step"
    memory = [*_memory(run_plan, measured), tag("p", budget(run_plan)), tag("p", disk(run_plan))]
    sections = [section("Memory", caption, *memory)]
    if run_plan.schedule.moves:
        table = tag("details", tag("summary", "by phase"), residency_table(run_plan))
        fullest = run_plan.ledger.fullest_class
        chart = residency_timeline(run_plan, fullest)
        caption = f"{unit_of(run_plan).name} on {ranks_of(fullest.ranks)}, hatched while they move"
        room = tag("p", host(run_plan))
        sections.append(section("Residency", caption, chart, table, _moves(run_plan), room))
    return [
        *sections,
        section("Time", TITLE, _timing(run_plan)),
        section("Objective", objective.LEGEND, _rows(objective.card_rows(run_plan))),
        section("Sources", "what each step learns from", *_sources(run_plan)),
        section("Layout", words.layout(run_plan), *_layout(run_plan)),
        section("Steps", f"of a global batch: {words.batch(run_plan)}", _steps(run_plan)),
        section("Decisions", "", _rows(labelled(run_plan))),
    ]


def _memory(run_plan: RunPlan, measured: Mapping[Phase, int]) -> Iterator[Markup]:
    """The bars of the fullest class, and of the first where it was measured; then a line for each
    group of the others."""
    classes, fullest = run_plan.ledger.classes, run_plan.ledger.fullest_class
    shown = [fullest, classes[0]] if measured and classes[0] is not fullest else [fullest]
    for memory in shown:
        stage = f", stage {memory.stage}" if len(classes) > 1 else ""
        yield tag("p", f"{ranks_of(memory.ranks)}{stage}", class_="ranks")
        yield memory_chart(run_plan, memory, measured if memory is classes[0] else {})
        figures = memory_figures(run_plan, memory)
        yield tag("details", tag("summary", "the figures"), figures)
    if len(classes) > 1:
        yield _other_classes(run_plan)


def _timing(run_plan: RunPlan) -> Markup:
    *phases, step = timing_rows(run_plan.timing)
    head = ("", "likely", "range", "made of")
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
        tag("tbody", *(_timing_row(row) for row in phases)),
        tag("tfoot", _timing_row(step)),
        class_="times",
    )
    about = tag("p", f"assumed: {assumptions(run_plan)}")
    return join([tag("div", table, class_="scroll"), about])


def _timing_row(row: Sequence[str]) -> Markup:
    name, *cells = row
    return tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells))


def _other_classes(run_plan: RunPlan) -> Markup:
    head, *rows = other_classes(run_plan)
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
        tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows)),
        class_="others",
    )
    return tag("div", table, class_="scroll")


def _moves(run_plan: RunPlan) -> Markup:
    head, *rows = move_rows(run_plan)
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
        tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows)),
        class_="others moves",
    )
    about = [tag("p", sentence) for sentence in not_prefetched(run_plan)]
    return join([tag("div", table, class_="scroll"), *about])


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
    layout = run_plan.layout
    if layout.student == layout.teacher:
        return [_mesh(layout.student, layout.world_size, "ranks")]
    return [
        _mesh(layout.student, layout.world_size, "the student's ranks"),
        _mesh(layout.teacher, layout.world_size, "the teacher's ranks"),
    ]


def _mesh(axes: AxisDegrees, world_size: int, name: str) -> Markup:
    """A tensor group a row; with pipelines a stage a row; while ranks can be told apart."""
    per_stage = world_size // axes.pipeline
    columns = axes.tensor if axes.pipeline == 1 else per_stage
    if columns > _MAX_COLUMNS or world_size // columns > _MAX_ROWS:
        return tag("p", f"{name}: {words.degrees(axes)}")
    cells = [
        tag("span", str(rank), title=f"rank {rank}, stage {rank // per_stage}")
        for rank in range(world_size)
    ]
    grid = tag("div", *cells, class_="mesh", style=f"--columns:{columns}")
    order = "a tensor group a row" if axes.pipeline == 1 else "a stage a row, tensor groups in it"
    return tag("figure", tag("figcaption", f"{name}: {order}"), grid)


def _steps(run_plan: RunPlan) -> Markup:
    items = [
        tag("li", tag("span", verb(step), class_=f"verb {verb(step)}"), tag("span", sentence(step)))
        for step in run_plan.steps
    ]
    return tag("ol", *items, class_="steps")


def _rows(labelled_rows: Sequence[tuple[str, str]]) -> Markup:
    rows = [tag("div", tag("dt", label), tag("dd", text)) for label, text in labelled_rows]
    return tag("dl", *rows)
