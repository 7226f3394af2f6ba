"""`python -m gkdplan.cli.reference`: every command's help as Markdown."""

import contextlib
import io
import os
from collections.abc import Iterator
from unittest import mock

from gkdplan.cli.main import COMMANDS, run

_OPENING = """\
# Commands

Without a path, a command that reads a plan takes `plan.toml` of the working directory. Results go
to stdout, what is said beside them and progress to stderr. Exit codes: 0 good, 1 errors found or a
stale lock, 2 a wrong use or a bug, 4 stopped and can go on, 130 interrupted. This page is written
by `python -m gkdplan.cli.reference`.
"""


def reference() -> str:
    """Every command's help, as it is printed at 80 columns."""
    return "\n".join([_OPENING, *_commands()])


def _commands() -> Iterator[str]:
    for name in COMMANDS:
        yield f"## {name}\n```text\n{_help(name).strip()}\n```\n"


def _help(name: str) -> str:
    shown = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": "80"}), contextlib.redirect_stdout(shown):
        run([name, "--help"])
    return shown.getvalue()


if __name__ == "__main__":
    print(reference(), end="")
