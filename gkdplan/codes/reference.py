"""`python -m gkdplan.codes.reference`: the code table as Markdown."""

from collections.abc import Iterator

from gkdplan.codes import CODES

_OPENING = """\
# The codes

What each finding means, why it is said and what mends it; `gkdplan explain CODE` prints the same
with an example. A source names the file of another program that refuses the same, and when: the
plan is held to it before a process starts. Rules without one are gkdplan's own. This page is
written by `python -m gkdplan.codes.reference` from `gkdplan/codes/`.
"""
_FAMILIES = {
    "GK0": "Syntax and keys",
    "GK1": "Models and tokenizers",
    "GK2": "Layout",
    "GK3": "Memory",
    "GK4": "Schedule, distillation and data",
    "GK5": "Commands and runs",
}


def reference() -> str:
    """Every code, family by family."""
    return "\n".join([_OPENING, *_families()])


def _families() -> Iterator[str]:
    for family, title in _FAMILIES.items():
        yield f"## {family}: {title}\n"
        for name in sorted(name for name in CODES if name.startswith(family)):
            row = CODES[name]
            yield f"### {name}: {row.title}\n\n{row.why}\n\n{row.mend}\n"
            if row.source is not None:
                yield f"Source: {row.source}.\n"


if __name__ == "__main__":
    print(reference(), end="")
