"""The part of the page that says what was found, and why it matters."""

from collections.abc import Sequence

from gkdplan.codes import CODES
from gkdplan.diagnostics import Diagnostic
from gkdplan.report.diagnostics import summary
from gkdplan.report.markup import Markup, join, section, tag


def findings_section(diagnostics: Sequence[Diagnostic]) -> Markup:
    """Every finding with its place, its notes and its help; the code's own reason behind it."""
    counted = summary(diagnostics) or "nothing that stands in the way"
    return section("Findings", counted, tag("ul", *map(_finding, diagnostics), class_="findings"))


def _finding(finding: Diagnostic) -> Markup:
    place = f"{finding.span.file}:{finding.span.line}" if finding.span else finding.path or ""
    head = [
        tag("span", f"{finding.severity} {finding.code}", class_=f"severity {finding.severity}"),
        tag("code", place) if place else Markup(),
    ]
    said = [tag("p", finding.message)]
    said += [tag("p", f"note: {note}", class_="beside") for note in finding.notes]
    said += [tag("p", f"help: {help}", class_="beside") for help in finding.help]
    why = tag(
        "details", tag("summary", CODES[finding.code].title), tag("p", CODES[finding.code].why)
    )
    return tag("li", join(head), *said, why)
