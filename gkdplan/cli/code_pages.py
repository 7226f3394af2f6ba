"""`python -m gkdplan.cli.code_pages docs/codes`: the code table as Markdown, a page a code."""

import sys
from collections.abc import Iterator
from pathlib import Path

from gkdplan.cli.explain import example_of
from gkdplan.codes import CODES

INDEX = "README.md"
_OPENING = """\
# The codes

What each finding means, why it is said and what mends it. `gkdplan explain CODE` prints a page of
these in the terminal. A source names the file of another program that refuses the same: the plan
is held to it before a process starts. Rules without one are gkdplan's own. These pages are written
by `python -m gkdplan.cli.code_pages docs/codes` from `gkdplan/codes/`.
"""
_FAMILIES = {
    "GK0": "Syntax and keys",
    "GK1": "Models and tokenizers",
    "GK2": "Layout",
    "GK3": "Memory",
    "GK4": "Schedule, distillation and data",
    "GK5": "Commands and runs",
}


def code_pages() -> dict[str, str]:
    """File name -> text: the list of all codes, and a page of each."""
    return {INDEX: "\n".join(_index())} | {f"{name}.md": "\n".join(_page(name)) for name in CODES}


def write_code_pages(directory: Path) -> None:
    """Every page anew; those of codes that are no more go."""
    directory.mkdir(exist_ok=True)
    for page in directory.glob("GK*.md"):
        page.unlink()
    for name, text in code_pages().items():
        (directory / name).write_text(text, encoding="utf-8")


def _index() -> Iterator[str]:
    yield _OPENING
    for family, title in _FAMILIES.items():
        yield f"## {family}: {title}\n"
        yield "| code | what it says |\n|---|---|"
        for name in sorted(name for name in CODES if name.startswith(family)):
            yield f"| [{name}]({name}.md) | {CODES[name].title} |"
        yield ""


def _page(name: str) -> Iterator[str]:
    code = CODES[name]
    yield f"# {name}: {code.title}\n\n{code.why}\n\n## What mends it\n{code.mend}\n"
    if code.source is not None:
        yield f"## Who else refuses it\n{code.source}.\n"
    if example := example_of(name):
        yield f"## As it is printed\n```text\n{example}\n```\n"
    yield f"All codes are in [the list]({INDEX})."
    yield ""


if __name__ == "__main__":
    write_code_pages(Path(sys.argv[1]))
