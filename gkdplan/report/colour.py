"""Colour for reports on a terminal; the words carry every meaning without it."""

import re

from rich.text import Text

_STYLES = (
    (re.compile(r"\bfits(?=: peak)"), "bold green"),
    (re.compile(r"\btight(?=: peak)"), "bold yellow"),
    (re.compile(r"\bover(?=: peak)"), "bold red"),
    (re.compile(r"^(?:restart|reshard|safe)(?= )", re.MULTILINE), "bold"),
    (re.compile(r"^[a-z]\S*(?: \S+)*(?= {2,}\S)", re.MULTILINE), "cyan"),
    (
        re.compile(
            r"^(?:[GM]iB(?: a rank|, stage)|the other ranks|steps of|moves of).*$", re.MULTILINE
        ),
        "bold",
    ),
    (re.compile(r"^(?:peak|headroom)  .*$", re.MULTILINE), "bold"),
    (re.compile(r"(?<=^[ \d]\d )[a-z]+", re.MULTILINE), "cyan"),
)


def coloured(report: str) -> Text:
    """The report's own characters, with labels and verdicts set off."""
    text = Text(report, no_wrap=True, overflow="ignore")
    for pattern, style in _STYLES:
        for match in pattern.finditer(report):
            text.stylize(style, *match.span())
    return text
