"""The predicted seconds of a step, by phase and by what they are spent on, in plain text."""

from collections.abc import Iterator

from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.timing import Assumption, Seconds, Timing
from gkdplan.units import format_seconds
from gkdplan.vocab import Phase

TITLE = "predicted, not measured; for ranking layouts"


def timing_section(run_plan: RunPlan, width: int = 80) -> str:
    """A line or more a phase and the step, then what was assumed."""
    rows = [("seconds", "likely", "range", TITLE), *timing_rows(run_plan.timing)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        wrap(
            f"{name:<{widths[0]}}  {likely:>{widths[1]}}  {range_:>{widths[2]}}  ",
            about,
            width,
        )
        for name, likely, range_, about in rows
    ]
    return "\n".join([*lines, wrap("assumed  ", assumptions(run_plan), width)])


def timing_rows(timing: Timing) -> list[tuple[str, str, str, str]]:
    """Name, likely seconds, their range and their parts of every phase, then of the step."""
    rows = [
        (str(phase), *_figures(timing.phases[phase]), _terms(timing, phase))
        for phase in Phase
        if phase in timing.phases
    ]
    return [*rows, ("step", *_figures(timing.step), _step(timing))]


def assumptions(run_plan: RunPlan) -> str:
    """What the prediction rests on, with the figures that no table gives."""
    return "; ".join(_assumed(run_plan))


def _figures(seconds: Seconds) -> tuple[str, str]:
    low, high = format_seconds(seconds.low), format_seconds(seconds.high)
    return format_seconds(seconds.likely), f"{low.removesuffix(' s')}-{high}"


def _terms(timing: Timing, phase: Phase) -> str:
    """The phase's parts, the largest first; what is less than a hundredth of it is left out."""
    likely = timing.phases[phase].likely
    terms = [term for term in timing.terms if term.phase is phase and term.seconds >= likely / 100]
    terms.sort(key=lambda term: -term.seconds)
    return ", ".join(f"{term.name} {format_seconds(term.seconds)}" for term in terms)


def _step(timing: Timing) -> str:
    drawn = f", {timing.sampled_share:.0%} of steps sample" if timing.sampled_share else ""
    return f"{timing.tokens_per_s:,.0f} tokens/s through the student{drawn}"


def _assumed(run_plan: RunPlan) -> Iterator[str]:
    yield "rows of the longest length"
    if run_plan.models.student.lora is not None:
        yield "no weight gradients of the frozen base, no exchanges of the adapters' own"
    if run_plan.layout.teacher != run_plan.layout.student:
        yield "no part of the payload made where it is needed"
    for assumption in run_plan.timing.assumptions:
        yield f"{_words(assumption.name)} {_value(assumption)}"


def _words(name: str) -> str:
    """flop_share -> flop share; a unit is written with the value."""
    return name.removesuffix("_s").replace("_", " ")


def _value(assumption: Assumption) -> str:
    if assumption.name.endswith("_s"):
        return f"{assumption.likely * 1e3:g} ms"
    return f"{assumption.likely:.0%}"
