"""Memory on the page: planned bars by phase, measured bars beneath them, and where objects lie."""

from collections.abc import Mapping

from gkdplan.report.figures import Unit, unit_of
from gkdplan.report.markup import Markup, join, tag
from gkdplan.report.memory_table import row_names
from gkdplan.report.residency import phases_of, tiers
from gkdplan.runplan.ledger import ClassMemory
from gkdplan.runplan.model import RunPlan
from gkdplan.vocab import Phase

_HUES = ("student", "teacher", "kv", "activations", "payload", "loss", "overhead")


def memory_chart(
    run_plan: RunPlan, memory: ClassMemory, measured: Mapping[Phase, int] | None = None
) -> Markup:
    """A stacked bar a phase, to one scale; where a phase was measured, its peak below the plan."""
    names, unit = row_names(run_plan, memory), unit_of(run_plan)
    measured = measured or {}
    scale = max([m.peak_bytes for m in memory.phases.values()] + list(measured.values()) + [1])
    bars = [
        _phase_bar(phase, memory, names, unit, scale, measured.get(phase))
        for phase in phases_of(run_plan)
        if phase in memory.phases
    ]
    return tag("div", tag("div", *bars, class_="bars"), _legend(memory, names, unit))


def residency_table(run_plan: RunPlan) -> Markup:
    """Objects that move x phases, each cell the tier in which the object lies."""
    phases = phases_of(run_plan)
    head = tag("tr", tag("th", "", scope="col"), *(tag("th", p, scope="col") for p in phases))
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            *(tag("td", tag("span", lies[p], class_=f"tier {lies[p]}")) for p in phases),
        )
        for name, lies in tiers(run_plan).items()
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="residency")
    return tag("div", table, class_="scroll")


def memory_figures(run_plan: RunPlan, memory: ClassMemory) -> Markup:
    """The numbers behind the bars."""
    phases, unit = phases_of(run_plan), unit_of(run_plan)
    head = [tag("th", unit.name, scope="col"), *(tag("th", p, scope="col") for p in phases)]
    rows = [
        _figures(
            name, [memory.phases[p].rows.get(name, 0) for p in phases if p in memory.phases], unit
        )
        for name in row_names(run_plan, memory)
    ]
    peaks = [memory.phases[p].peak_bytes for p in phases if p in memory.phases]
    table = tag(
        "table",
        tag("thead", tag("tr", *head)),
        tag("tbody", *rows),
        tag("tfoot", _figures("peak", peaks, unit)),
        class_="figures",
    )
    return tag("div", table, class_="scroll")


def hues(names: list[str]) -> dict[str, str]:
    """Buffer -> CSS class: one hue an owner, a shade for each further buffer of it."""
    shades: dict[str, int] = {}
    classes = {}
    for name in names:
        first = name.split()[0]
        hue = first if first in _HUES else "other"
        shades[hue] = shades.get(hue, 0) + 1
        classes[name] = f"hue-{hue} shade-{min(shades[hue], 4)}"
    return classes


def _phase_bar(
    phase: Phase,
    memory: ClassMemory,
    names: list[str],
    unit: Unit,
    scale: int,
    measured_bytes: int | None,
) -> Markup:
    rows, peak = memory.phases[phase].rows, memory.phases[phase].peak_bytes
    classes = hues(names)
    segments = [
        tag(
            "span",
            class_=f"segment {classes[name]}",
            style=f"width:{100 * rows[name] / scale:.3f}%",
            title=f"{name}: {unit.format(rows[name])} {unit.name}",
        )
        for name in names
        if rows.get(name)
    ]
    bars = [_bar("planned", join(segments), f"{unit.format(peak)} {unit.name}")]
    if measured_bytes is not None:
        width = f"width:{100 * measured_bytes / scale:.3f}%"
        distance = f"{measured_bytes / peak - 1:+.1%}"
        figure = f"{unit.format(measured_bytes)} measured ({distance})"
        bars.append(_bar("measured", tag("span", class_="segment", style=width), figure))
    return tag("div", tag("h3", phase), *bars, class_="phase")


def _bar(kind: str, segments: Markup, figure: str) -> Markup:
    return tag(
        "div",
        tag("span", kind, class_="kind"),
        tag("span", segments, class_="track"),
        tag("span", figure, class_="figure"),
        class_=f"bar {kind}",
    )


def _legend(memory: ClassMemory, names: list[str], unit: Unit) -> Markup:
    classes = hues(names)
    items = []
    for name in names:
        largest = max(phase.rows.get(name, 0) for phase in memory.phases.values())
        swatch = tag("span", class_=f"swatch {classes[name]}")
        items.append(
            tag("li", swatch, name, " ", tag("small", f"{unit.format(largest)} {unit.name}"))
        )
    return tag("ul", *items, class_="legend")


def _figures(name: str, figures: list[int], unit: Unit) -> Markup:
    cells = [tag("td", unit.format(f) if f else "-") for f in figures]
    return tag("tr", tag("th", name, scope="row"), *cells)
