"""What is wrong with a text that is not TOML, in the words of its writer."""

import re

from gkdplan.diagnostics import Diagnostic, Span, error
from gkdplan.spec.source import Source
from gkdplan.spec.toml_words import format_path

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_REPEATED = {
    r"Cannot declare .* twice": "this table is already declared further up",
    r"Cannot overwrite a value": "this key or table is already written further up",
    r"Cannot mutate immutable namespace .*": "this table is already complete further up",
}
_OTHER = {
    r"Illegal character '\\n'": "the string is not closed on its line",
    r"Exceeds the limit .*": "a number has thousands of digits",
}
_UNQUOTED = re.compile(r"([^=]+=\s*)([A-Za-z/~.][^\s,#\]}\"']*)\s*(?:#.*)?")
_COLON = re.compile(r"([A-Za-z0-9_-]+)\s*:\s*(\S.*)")


def syntax_error(file: str, text: str, failure: ValueError) -> Diagnostic:
    """GK001 at the place that tomllib names in its message."""
    message = str(failure)
    lines = text.split("\n")
    place = _PLACE.search(message)
    if place is None:
        line, column = 1, 1
    elif place[1]:
        line, column = int(place[1]), int(place[2])
    else:
        line = max((number for number, words in enumerate(lines, 1) if words.strip()), default=1)
        column = len(lines[line - 1].rstrip()) + 1
    reason = _PLACE.sub("", message)
    statement = lines[line - 1].strip()
    length = 1
    if repeated := _first(_REPEATED, reason):
        column, length = lines[line - 1].index(statement) + 1, max(len(statement), 1)
    reason = repeated or _first(_OTHER, reason) or reason[:1].lower() + reason[1:]
    help = ("keep one of them",) if repeated else _mend(statement)
    finding = error("GK001", "the plan is not valid TOML", label=reason, help=help)
    return finding.at(Span(file, line, column, length))


def too_deep(file: str) -> Diagnostic:
    """GK001 for a text that nests beyond what a parser can follow."""
    finding = error("GK001", "the plan is not valid TOML", label="its values nest too deeply")
    return finding.at(Span(file, 1, 1, 1))


def oversized_integers(source: Source) -> tuple[Diagnostic, ...]:
    """GK001 for each integer that TOML has no room for."""
    return tuple(
        error("GK001", "the plan is not valid TOML", format_path(path), label="beyond 64 bits").at(
            source.locate_value(path)
        )
        for path in source.places
        if type(value := source.at(path)) is int and not -(2**63) <= value < 2**63
    )


def _first(wordings: dict[str, str], reason: str) -> str:
    return next((words for pattern, words in wordings.items() if re.match(pattern, reason)), "")


def _mend(statement: str) -> tuple[str, ...]:
    """What to write instead, where the slip is a common one."""
    if match := _UNQUOTED.fullmatch(statement):
        word = match[2].lower()
        value = word if word in ("true", "false", "inf", "nan") else f'"{match[2]}"'
        return (f"write `{match[1]}{value}`",)
    if match := _COLON.fullmatch(statement):
        return (f"a key and its value are parted by `=`: write `{match[1]} = {match[2]}`",)
    return ()
