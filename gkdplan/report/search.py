"""A search's ranking as a table: layouts that fit, the fastest first, all seconds predicted."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from gkdplan.codes import CODES
from gkdplan.report.figures import GIB, MIB, Unit
from gkdplan.report.words import plural
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import Recompute
from gkdplan.runplan.ranking import Dropped, Option, Ranking
from gkdplan.units import format_bytes
from gkdplan.vocab import Tier

_HEADER = ["mesh", "teacher", "micro", "recompute", "offload", "peak", "free", "s/step", "tok/s"]
_LEFT_ALIGNED = 2
_LEGEND = (
    "mesh is tensor/pipeline/context/expert/data, pipeline x chunks where stages interleave; "
    "peak and what it leaves free are {unit} of the fullest rank; seconds are predicted"
)


def ranking_table(ranking: Ranking, width: int = 80) -> str:
    """The layouts, what each column means, how many candidates there were and what was dropped."""
    shown = ranking.options
    beside = [ranking.own, ranking.dropped and ranking.dropped.option]
    priced = [*shown, *(option for option in beside if option)]
    unit = GIB if any(option.budget_bytes >= 10 * 2**30 for option in priced) else MIB
    parts = (
        [_table(shown, unit, width), wrap("", _LEGEND.format(unit=unit.name), width)]
        if shown
        else ["no layout that was tried keeps every rule and fits"]
    )
    return "\n".join([*parts, *(wrap("", line, width) for line in _remarks(ranking, unit))])


def ranking_json(ranking: Ranking) -> dict[str, Any]:
    """`counts`, `options`, `dropped` and `own` as JSON values; `changes` as an object."""
    dropped, own = ranking.dropped, ranking.own
    return {
        "counts": {**asdict(ranking.counts), "rules": dict(ranking.counts.rules)},
        "options": [_option_json(option) for option in ranking.options],
        "dropped": dropped and {**asdict(dropped), "option": _option_json(dropped.option)},
        "own": own and _option_json(own),
    }


def _option_json(option: Option) -> dict[str, Any]:
    headroom_bytes = option.budget_bytes - option.peak_bytes
    return {
        **asdict(option),
        "headroom_bytes": headroom_bytes,
        "changes": dict(option.changes),
    }


def _remarks(ranking: Ranking, unit: Unit) -> Iterator[str]:
    counts, dropped, own = ranking.counts, ranking.dropped, ranking.own
    yield (
        f"{plural(counts.considered, 'candidate')}: against a rule {counts.against_rules:,}, "
        f"over the budget {counts.over:,}, slower {counts.slower:,}"
    )
    for code, count in counts.rules:
        yield f"  {count:>{len(f'{counts.against_rules:,}')},}  {code} {CODES[code].title}"
    if counts.planned:
        yield (
            f"of them {counts.planned:,} keep every rule, but `gkdplan run` does not run them yet: "
            "`--planned` ranks them too"
        )
    if any(not option.runs for option in ranking.options):
        yield "* planned only: `gkdplan run` does not run it yet"
    if dropped is not None:
        yield f"the fastest that does not fit: {_lacks(dropped, unit)}"
    if own is not None:
        yield f"the plan's own layout: {_described(own)}: {own.step_s:.3g} s a step, {own.verdict}"


def _lacks(dropped: Dropped, unit: Unit) -> str:
    option = dropped.option
    lacking = [
        f"{format_bytes(num_bytes)} {where}"
        for num_bytes, where in (
            (dropped.device_bytes, f"more than an allocator can use of it, in {option.peak_phase}"),
            (dropped.host_bytes, "more than a node's host memory"),
        )
        if num_bytes
    ]
    return (
        f"{_described(option)}: {option.step_s:.3g} s a step, a peak of "
        f"{unit.format(option.peak_bytes)} of {unit.format(option.budget_bytes)} {unit.name}, "
        f"{' and '.join(lacking) or 'over'}"
    )


def _described(option: Option) -> str:
    """2/1/1/1/4, micro 4, recompute none, offload none."""
    teacher = "" if option.teacher == option.student else f" with teacher {mesh(option.teacher)}"
    return (
        f"{mesh(option.student)}{teacher}, micro {option.micro_rows}, recompute "
        f"{recompute(option.recompute)}, offload {offload(option)}"
    )


def mesh(axes: AxisDegrees) -> str:
    """tensor/pipeline/context/expert/data; 2/4x3/1/1/2 has four stages of three chunks."""
    chunks = f"x{axes.virtual_pipeline}" if axes.virtual_pipeline > 1 else ""
    expert = f"{axes.expert}x{axes.expert_tensor}" if axes.expert_tensor > 1 else axes.expert
    return f"{axes.tensor}/{axes.pipeline}{chunks}/{axes.context}/{expert}/{axes.data}"


def offload(option: Option) -> str:
    """What leaves the device: none, teacher, optimizer, both; with a streamed teacher or a student
    that rests each by name: stream+optimizer+grads."""
    teacher = "stream" if option.teacher_streamed else "teacher"
    student = "student" if option.student_params is Tier.HOST else "grads"
    away = {
        teacher: option.teacher_offload is Tier.HOST,
        "optimizer": option.optimizer_offload is Tier.HOST,
        student: option.student_grads is not Tier.DEVICE,
    }
    names = [name for name, is_away in away.items() if is_away]
    return "both" if names == ["teacher", "optimizer"] else "+".join(names) or "none"


def recompute(chosen: Recompute) -> str:
    """none, mlp, block 9, full."""
    if chosen.granularity == "selective":
        return "+".join(chosen.modules)
    if chosen.granularity == "full" and chosen.method == "block":
        return f"block {chosen.num_layers}"
    return chosen.granularity


def _table(options: Sequence[Option], unit: Unit, width: int) -> str:
    """Aligned, with narrow gaps where wide ones would not leave room."""
    rows = [_HEADER, *(_row(option, unit) for option in options)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gap = "  " if sum(widths) + 2 * len(widths) - 2 <= width else " "
    return "\n".join(
        gap.join(
            f"{cell:<{w}}" if index < _LEFT_ALIGNED else f"{cell:>{w}}"
            for index, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(option: Option, unit: Unit) -> tuple[str, ...]:
    return (
        mesh(option.student) + ("" if option.runs else "*"),
        "same" if option.teacher == option.student else mesh(option.teacher),
        str(option.micro_rows),
        recompute(option.recompute),
        offload(option),
        unit.format(option.peak_bytes),
        unit.format(option.budget_bytes - option.peak_bytes),
        f"{option.step_s:.3g}",
        f"{option.tokens_per_s:,.0f}",
    )
