"""One self-contained HTML page of a lock, or of a run: no script, no network, light and dark."""

from collections.abc import Sequence
from importlib.resources import files

from gkdplan.diagnostics import Diagnostic
from gkdplan.report import words
from gkdplan.report.answer_cards import answer_cards
from gkdplan.report.figures import unit_of
from gkdplan.report.findings_section import findings_section
from gkdplan.report.markup import Markup, join, section, tag
from gkdplan.report.plan_sections import plan_sections
from gkdplan.report.run_chart import (
    completion_cards,
    evaluation_chart,
    loss_chart,
    source_legend,
    time_chart,
)
from gkdplan.report.run_record import Completion, RunRecord
from gkdplan.report.token_cards import token_cards
from gkdplan.runplan.model import RunPlan
from gkdplan.units import format_count, format_seconds
from gkdplan.vocab import Role, Source

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_NUM_SAMPLES = 3


def lock_page(run_plan: RunPlan, diagnostics: Sequence[Diagnostic] = ()) -> str:
    """The page of what was decided, and of what was found where a plan was compiled for it."""
    sections = [_tiles(_plan_tiles(run_plan)), *plan_sections(run_plan, {})]
    sections += _findings(diagnostics)
    return _page(run_plan, "run plan", sections)


def run_page(record: RunRecord) -> str:
    """The page of what happened, beside what was decided."""
    sections = [_tiles(_run_tiles(record)), *_run_sections(record)]
    sections += plan_sections(record.run_plan, record.measured_peak_bytes)
    sections += _findings(record.diagnostics)
    return _page(record.run_plan, "run", sections)


def _findings(diagnostics: Sequence[Diagnostic]) -> list[Markup]:
    return [findings_section(diagnostics)] if diagnostics else []


def _page(run_plan: RunPlan, kind: str, sections: Sequence[Markup]) -> str:
    style = Markup(files("gkdplan.report").joinpath("page.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{run_plan.name} - gkdplan"),
        tag("style", style),
    )
    footer = tag("footer", f"{run_plan.tool}, plan {run_plan.fingerprint[:12]}")
    body = tag("body", _masthead(run_plan, kind), tag("main", *sections), footer)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _masthead(run_plan: RunPlan, kind: str) -> Markup:
    ledger, unit = run_plan.ledger, unit_of(run_plan)
    share = ledger.peak_bytes / ledger.budget_bytes
    verdict = tag("span", ledger.verdict, class_=f"verdict {ledger.verdict}")
    peak = f"{unit.format(ledger.peak_bytes)} of {unit.format(ledger.budget_bytes)} {unit.name}"
    meter = tag("span", style=f"width:{min(100.0, 100 * share):.2f}%", class_=ledger.verdict)
    return tag(
        "header",
        tag("p", f"gkdplan {kind}", class_="kicker"),
        tag("h1", run_plan.name),
        tag(
            "p",
            _model_name(run_plan, Role.TEACHER),
            tag("span", " teaches ", class_="teaches"),
            _model_name(run_plan, Role.STUDENT),
            f" on {words.devices(run_plan.layout)}",
            class_="subtitle",
        ),
        tag("div", verdict, f" peak {peak} a rank, in {ledger.peak_phase}", class_="peak"),
        tag("div", meter, class_="meter", role="img", aria_label=f"{share:.0%} of the budget"),
        class_="masthead",
    )


def _model_name(run_plan: RunPlan, role: Role) -> Markup:
    model = run_plan.models.teacher if role is Role.TEACHER else run_plan.models.student
    name = tag("strong", words.short_name(model), class_=f"model {role}")
    layers = f", {model.shape.num_layers} layers" if model.keep_layers is not None else ""
    return join([name, f" ({format_count(model.num_parameters)}{layers})"])


def _plan_tiles(run_plan: RunPlan) -> list[tuple[str, str, str]]:
    ledger, unit = run_plan.ledger, unit_of(run_plan)
    headroom = ledger.budget_bytes - ledger.peak_bytes
    return [
        (
            "headroom",
            f"{unit.format(headroom)} {unit.name}",
            f"{headroom / ledger.budget_bytes:.0%} of the budget",
        ),
        ("ranks", f"{run_plan.layout.world_size:,}", words.degrees(run_plan.layout.student)),
        ("steps", f"{run_plan.training.num_steps:,}", f"of {run_plan.batch.global_rows:,} rows"),
        (
            "learns",
            format_count(run_plan.models.student.num_parameters),
            f"parameters, from {format_count(run_plan.models.teacher.num_parameters)}",
        ),
    ]


def _run_tiles(record: RunRecord) -> list[tuple[str, str, str]]:
    tiles = []
    if record.evaluations:
        before, after = record.evaluations[0], record.evaluations[-1]
        tiles = [
            _before_and_after("held-out divergence", before.jsd, after.jsd),
            _before_and_after("held-out cross-entropy", before.cross_entropy, after.cross_entropy),
        ]
        if before.top1_agreement is not None and after.top1_agreement is not None:
            below = f"of tokens; {before.top1_agreement:.1%} before"
            tiles.append(("top-1 agreement", f"{after.top1_agreement:.1%}", below))
    num_steps, planned = len(record.steps), record.run_plan.training.num_steps
    seconds = sum(record.seconds_by_phase.values())
    mean = f"{format_seconds(seconds / num_steps)} a step" if num_steps else ""
    return [
        *tiles,
        ("steps", f"{num_steps:,}", f"of {planned:,} planned"),
        ("time in steps", format_seconds(seconds), mean),
    ]


def _before_and_after(title: str, before: float, after: float) -> tuple[str, str, str]:
    change = f" ({after / before - 1:+.0%})" if before else ""
    return title, f"{after:.4f}", f"{before:.4f} before{change}"


def _tiles(tiles: Sequence[tuple[str, str, str]]) -> Markup:
    cells = [
        tag("div", tag("h3", title), tag("p", figure, class_="figure"), tag("small", below))
        for title, figure, below in tiles
    ]
    return tag("section", *cells, class_="tiles")


def _run_sections(record: RunRecord) -> list[Markup]:
    sections = []
    if record.steps:
        present = [step.source for step in record.steps]
        curve = [loss_chart(record.steps), source_legend(present)]
        if len(record.evaluations) > 2:
            curve.append(evaluation_chart(record.evaluations))
        sections.append(section("Loss", "", *curve))
    samples = _samples(record.completions)
    if samples:
        sections.append(section("What they wrote", "", completion_cards(samples)))
    if record.answers:
        caption = "the student's likeliest words, beside those of the dataset"
        sections.append(section("Held-out prompts", caption, answer_cards(record.answers)))
    if record.read:
        last = [one for one in record.read if one.step == record.read[-1].step]
        caption = (
            "the darker, the more it diverges; underlined where the teacher's first is another"
        )
        sections.append(section("Token by token", caption, token_cards(last)))
    if record.seconds_by_phase:
        chart = time_chart(record.seconds_by_phase)
        sections.append(section("Where the time went", "seconds of the whole run", chart))
    return sections


def _samples(completions: Sequence[Completion]) -> list[Completion]:
    """The newest few of each source."""
    return [
        completion
        for source in (Source.STUDENT, Source.TEACHER)
        for completion in [c for c in completions if c.source is source][-_NUM_SAMPLES:]
    ]
