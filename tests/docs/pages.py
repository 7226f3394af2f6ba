"""The pages of the documentation, cut into what they show."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"))
    if page.parent.name != "codes" and page.name != "CHANGELOG.md"
)
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]*)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fence:
    """A block of a page: its language, its title ("" for none), and what stands in it."""

    language: str
    title: str
    text: str


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fences(page: str, *languages: str) -> list[Fence]:
    """The blocks of these languages, in their order."""
    found = (Fence(*match) for match in FENCE.findall(read(page)))
    return [fence for fence in found if fence.language in languages]


def typed(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console, as it is written, with what it printed."""
    for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*", block)[0]
        yield command, block.removeprefix(command).strip("\n")
