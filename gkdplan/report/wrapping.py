"""Labelled text that stays within the width of a terminal."""

import textwrap


def wrap(label: str, text: str, width: int) -> str:
    """`label`, then the text, with its later lines under its first; its own line ends stay."""
    room = max(20, width - len(label))
    lines = [
        line
        for paragraph in text.splitlines() or [""]
        for line in textwrap.wrap(paragraph, room, break_on_hyphens=False) or [""]
    ]
    indent = " " * len(label)
    return "\n".join((label if i == 0 else indent) + line for i, line in enumerate(lines)).rstrip()
