"""A run on the page: the loss curve, where the time went, and what the models wrote."""

from collections.abc import Mapping, Sequence

from gkdplan.report.markup import Markup, tag
from gkdplan.report.objective import SOURCE_NAMES
from gkdplan.report.run_record import Completion, Evaluation, StepRecord
from gkdplan.units import format_seconds
from gkdplan.vocab import Source

_MAX_DOTS = 400
_LONGEST_TEXT = 1200
_WIDTH, _HEIGHT = 1000, 300


def loss_chart(steps: Sequence[StepRecord]) -> Markup:
    """Loss of every step, with a dot in its source's colour while the dots can be told apart."""
    points = [(record.step, record.loss) for record in steps]
    dots = [
        _dot(place, f"source-{record.source}", f"step {record.step}: {record.loss:.4f}")
        for place, record in zip(_places(points), steps, strict=True)
    ]
    return _curve(points, dots if len(dots) <= _MAX_DOTS else [], "loss, nats a token")


def evaluation_chart(evaluations: Sequence[Evaluation]) -> Markup:
    """Held-out divergence after each evaluation."""
    points = [(e.step, e.jsd) for e in evaluations]
    dots = [
        _dot(place, "held-out", f"after step {e.step}: {e.jsd:.4f}")
        for place, e in zip(_places(points), evaluations, strict=True)
    ]
    return _curve(points, dots, "held-out divergence, nats a token")


def time_chart(seconds_by_phase: Mapping[str, float]) -> Markup:
    """A bar a phase: its seconds and its share of the run."""
    total = sum(seconds_by_phase.values())
    rows = [
        tag(
            "div",
            tag("span", phase, class_="kind"),
            tag(
                "span",
                tag("span", class_="segment", style=f"width:{100 * seconds / total:.3f}%"),
                class_="track",
            ),
            tag("span", f"{format_seconds(seconds)} ({seconds / total:.0%})", class_="figure"),
            class_="bar time",
        )
        for phase, seconds in seconds_by_phase.items()
        if total > 0
    ]
    return tag("div", *rows, class_="bars")


def source_legend(present: Sequence[Source]) -> Markup:
    items = [
        tag("li", tag("span", class_=f"swatch source-{source}"), SOURCE_NAMES[source])
        for source in Source
        if source in present
    ]
    return tag("ul", *items, class_="legend")


def completion_cards(completions: Sequence[Completion]) -> Markup:
    cards = [
        tag(
            "article",
            tag(
                "header",
                tag("span", class_=f"swatch source-{c.source}"),
                f"{c.source}, step {c.step}",
            ),
            tag("p", _cut(c.question), class_="question"),
            tag("p", _cut(c.completion), class_="completion"),
            class_="card",
        )
        for c in completions
    ]
    return tag("div", *cards, class_="cards")


def _curve(points: Sequence[tuple[int, float]], dots: Sequence[Markup], title: str) -> Markup:
    """A line over a grid that stretches with the page; its labels are text outside the drawing."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), _top(values)
    path = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in _places(points))
    grid = [
        tag("line", x1=0, x2=_WIDTH, y1=y, y2=y, class_="grid")
        for y in range(0, _HEIGHT + 1, _HEIGHT // 3)
    ]
    drawing = tag(
        "svg",
        *grid,
        tag("path", d=path, class_="curve"),
        *dots,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=title,
    )
    heights = [high - (high - low) * i / 3 for i in range(4)]
    y_labels = [tag("span", label) for label in _labels(heights)]
    x_labels = [tag("span", f"step {min(steps)}"), tag("span", f"step {max(steps)}")]
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", *y_labels, class_="y-axis"),
        drawing,
        tag("div", *x_labels, class_="x-axis"),
        class_="chart",
    )


def _labels(heights: Sequence[float]) -> list[str]:
    """With three digits, or as many as tell them apart."""
    spellings = ([f"{height:.{digits}g}" for height in heights] for digits in range(3, 17))
    return next((s for s in spellings if len({*s}) == len(s)), [repr(h) for h in heights])


def _places(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Where each point lies in the drawing, whose y axis points down."""
    first, last = points[0][0], points[-1][0]
    values = [value for _, value in points]
    low, high = min(values), _top(values)
    return [
        (_WIDTH * (step - first) / max(1, last - first), _HEIGHT * (high - value) / (high - low))
        for step, value in points
    ]


def _top(values: Sequence[float]) -> float:
    """The top of the y axis; a flat curve lies at the bottom of an axis one nat high."""
    return max(values) if max(values) > min(values) else max(values) + 1


def _dot(place: tuple[float, float], css_class: str, title: str) -> Markup:
    """A round dot however the drawing stretches: a line of no length with a round end."""
    x, y = place
    path = tag("path", d=f"M{x:.2f} {y:.2f}h0", class_=f"dot {css_class}")
    return tag("g", tag("title", title), path)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ..."
