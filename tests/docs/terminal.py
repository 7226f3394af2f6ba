"""A terminal of 80 columns in a checkout's plans, and a page that is typed into it."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pages import ROOT, Fence

from gkdplan.cli.main import run

FILES = ("toml", "yaml", "sh", "json")
"""Blocks of these languages that have a title are files of the page."""


@dataclass(frozen=True, slots=True)
class Typed:
    """What a command left: its exit code, its result, and both streams as a terminal mixes them."""

    status: int
    result: str
    both: str

    def shows(self, printed: str) -> bool:
        """Whether a page that shows this shows what was printed, with or without what is said
        beside the result. Dots alone on a line stand for lines, and in a line for a word."""
        lines = (
            ".*?" if line == "..." else re.escape(line).replace(r"\.\.\.", r"\S*")
            for line in printed.split("\n")
        )
        pattern = re.compile("\n".join(lines), re.DOTALL)
        return any(pattern.fullmatch(said.strip("\n")) for said in (self.result, self.both))


class _Tee(io.StringIO):
    """Keeps what is written, and hands it on."""

    def __init__(self, other: io.StringIO):
        super().__init__()
        self.other = other

    def write(self, text: str) -> int:
        self.other.write(text)
        return super().write(text)


@contextlib.contextmanager
def terminal(place: Path) -> Iterator[None]:
    """In a directory with the plans of a checkout, and without a hub."""
    for name in ("plans", "schemas"):
        shutil.copytree(ROOT / name, place / name)
    (place / ".cache").symlink_to(ROOT / ".cache")
    environment = {"COLUMNS": "80", "HF_HUB_CACHE": str(place / "hub")}
    with contextlib.chdir(place), mock.patch.dict(os.environ, environment):
        yield


def lay(fence: Fence) -> None:
    """The file that a block with a title is."""
    if fence.title:
        Path(fence.title).write_text(fence.text, encoding="utf-8")


def enter(command: str) -> Typed:
    """Type a command, a backslash at the end of a line continues it; those that are not gkdplan's
    go to the shell."""
    command = command.replace("\\\n", " ")
    if not command.startswith("gkdplan "):
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        return Typed(done.returncode, done.stdout, done.stdout + done.stderr)
    both = io.StringIO()
    result = _Tee(both)
    with contextlib.redirect_stdout(result), contextlib.redirect_stderr(both):
        status = run(shlex.split(command)[1:])
    return Typed(status, result.getvalue(), both.getvalue())
