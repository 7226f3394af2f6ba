"""A file -> the flags of ms-swift that it gives, those of a `--config` with them."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from gkdplan.swift.command import Command, Flag, place_of, refused
from gkdplan.swift.shell import Script, Word, read_script
from gkdplan.swift.yaml_file import read_yaml

FOR_A_SHELL = re.compile(r"\$[\w{(]|`")
YAML_ENDINGS = (".yaml", ".yml")

Read = Callable[[str], str]
"""A path -> its text; raises UserError."""


def read_command(file: str, text: str, read: Read) -> Command:
    """The command that a script or a YAML holds.

    Raises UserError (GK010) where there is none that can be understood.
    """
    if file.endswith(YAML_ENDINGS):
        return read_yaml(file, text)
    script = read_script(file, text)
    flags = tuple(_flags(file, tuple(text.splitlines()), script))
    config = next((flag for flag in flags if flag.name == "config"), None)
    if config is None:
        return Command(file, flags, script.variables)
    if len(config.values) != 1:
        raise refused("`--config` names one YAML", config.span)
    return _with_config(Command(file, flags, script.variables), config, read)


def _with_config(command: Command, config: Flag, read: Read) -> Command:
    """Flags of the command line stand above those of its YAML."""
    (path,) = config.values
    beside = os.path.join(os.path.dirname(command.file), path)
    path = path if os.path.exists(path) or not os.path.exists(beside) else beside
    base = read_yaml(path, read(path))
    given = {flag.name for flag in command.flags}
    kept = tuple(flag for flag in base.flags if flag.name not in given)
    return replace(base, flags=kept + command.flags, environment=command.environment)


def _flags(file: str, lines: tuple[str, ...], script: Script) -> Iterator[Flag]:
    """Each `--flag` with the words up to the next; the last of those given twice stands."""
    found: dict[str, Flag] = {}
    for word in script.words:
        if FOR_A_SHELL.search(word.text):
            raise refused(
                f"only a shell knows what `{word.text}` is",
                place_of(file, lines, word.line, word.text),
                label="set nowhere in this file",
                help="write the value itself, or set the variable above the command",
            )
    for name, values, line in _grouped(file, lines, script.words):
        flag = Flag(name, values, place_of(file, lines, line, name))
        found.pop(flag.name, None)
        found[flag.name] = flag
    yield from found.values()


def _grouped(
    file: str, lines: tuple[str, ...], words: tuple[Word, ...]
) -> Iterator[tuple[str, tuple[str, ...], int]]:
    at = 0
    while at < len(words):
        word = words[at]
        if not word.text.startswith("--"):
            raise refused(
                f"`{word.text}` belongs to no flag", place_of(file, lines, word.line, word.text)
            )
        name, is_joined, joined = word.text[2:].partition("=")
        at, values = at + 1, [joined] if is_joined else []
        while at < len(words) and not words[at].text.startswith("--"):
            values.append(words[at].text)
            at += 1
        yield name, tuple(values), word.line
