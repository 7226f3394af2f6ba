"""A shell script that runs `megatron rlhf` -> its words, with variables that the script sets."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from gkdplan.swift.command import place_of, refused

VARIABLE = re.compile(r"'[^']*'|\$\{(?P<braced>[^}]*)\}|\$(?P<plain>\w+)")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
ENDINGS = {"|", "||", "&&", "&", ";", ">", ">>", "2>", "2>&1", "&>", "<"}


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command and the line where it stands, counted from 1."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Script:
    """The words after `megatron rlhf`, and the variables that are set before them."""

    words: tuple[Word, ...]
    variables: dict[str, str]


def read_script(file: str, text: str) -> Script:
    """The only `megatron rlhf` of a script.

    Raises UserError (GK010) where there is none or several, or a quote is not closed.
    """
    lines = tuple(text.splitlines())
    variables: dict[str, str] = {}
    found: list[tuple[Word, ...]] = []
    for words in _commands(file, lines, variables):
        plain = [word.text for word in words]
        at = next((i for i, word in enumerate(plain) if word == "rlhf"), None)
        if at and plain[at - 1].rpartition("/")[2] == "megatron":
            found.append(words[at + 1 :])
        elif at and plain[at - 1].rpartition("/")[2] == "swift":
            raise refused(
                "`swift rlhf` trains without Megatron, with flags of another meaning",
                place_of(file, lines, words[at].line, "rlhf"),
                help="only `megatron rlhf --rlhf_type gkd` can be imported",
            )
    if len(found) != 1:
        number = "more than one" if found else "no"
        raise refused(
            f"`{file}` has {number} `megatron rlhf` command",
            None,
            help="give a script with one `megatron rlhf --rlhf_type gkd`, or a YAML of its flags",
        )
    return Script(found[0], variables)


def _commands(
    file: str, lines: tuple[str, ...], variables: dict[str, str]
) -> Iterator[tuple[Word, ...]]:
    """The commands of a script, with its assignments taken into `variables` and put in place."""
    words: list[Word] = []
    pending, start = "", 0
    for number, line in enumerate(lines, 1):
        start = start if pending else number
        goes_on = line.rstrip().endswith("\\") and not line.lstrip().startswith("#")
        piece = line.rstrip()[:-1] if goes_on else line
        pending += ("\n" if pending else "") + piece
        try:
            texts = shlex.split(_expanded(pending, variables), comments=True)
        except ValueError:
            continue  # a quote that a later line closes
        words += [Word(word, start) for word in texts]
        pending = ""
        if not goes_on:
            yield from _without_assignments(words, variables)
            words = []
    if pending:
        raise refused(f"a quote of `{file}` is not closed", place_of(file, lines, start, ""))
    yield from _without_assignments(words, variables)


def _without_assignments(
    words: list[Word], variables: dict[str, str]
) -> Iterator[tuple[Word, ...]]:
    at = 0
    while at < len(words) and (words[at].text == "export" or ASSIGNMENT.match(words[at].text)):
        name, is_set, value = words[at].text.partition("=")
        if is_set:
            variables[name] = value
        at += 1
    command = []
    for word in words[at:]:
        if word.text in ENDINGS:
            break
        command.append(word)
    if command:
        yield tuple(command)


def _expanded(text: str, variables: dict[str, str]) -> str:
    """A piece of a script with the variables put in that it sets; others stay as they are."""

    def put(found: re.Match[str]) -> str:
        name, has_default, default = (found["braced"] or found["plain"] or "").partition(":-")
        return variables.get(name, default if has_default else found.group())

    return VARIABLE.sub(put, text)
