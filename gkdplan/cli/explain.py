"""`gkdplan explain`: what a code means, why it is refused and what mends it."""

import difflib
from dataclasses import asdict
from importlib import resources
from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson
from gkdplan.cli.completion import codes
from gkdplan.cli.terminal import show_json, width
from gkdplan.codes import CODES, Code
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import SCHEMA_VERSION


def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="Such as GK203.", autocompletion=codes)
    ] = None,
    json: AsJson = False,
) -> None:
    """Explain a diagnostic's code by an example, or list them all."""
    names = list(CODES) if code is None else [_known(code)]
    if json:
        rows = [_row(name, CODES[name]) for name in names]
        show_json({"schema_version": SCHEMA_VERSION, **(rows[0] if code else {"codes": rows})})
    elif code is None:
        print("\n".join(wrap(f"{name}  ", CODES[name].title, width()) for name in names))
    else:
        print(_page(names[0], CODES[names[0]]))


def _known(code: str) -> str:
    name = code.upper()
    if name in CODES:
        return name
    near = [known for known in CODES if known.startswith(name)]
    near = near or difflib.get_close_matches(name, CODES, n=3)
    listed = f"; near it are {', '.join(near)}" if near else ""
    raise typer.BadParameter(f"there is no code {code}{listed}")


def _row(name: str, code: Code) -> dict[str, str | None]:
    return {"code": name, **asdict(code), "example": example_of(name)}


def _page(name: str, code: Code) -> str:
    parts = [wrap(f"{name}: ", code.title, width())]
    parts += [wrap("why     ", code.why, width()), wrap("mend    ", code.mend, width())]
    if code.source is not None:
        parts.append(wrap("source  ", code.source, width()))
    if example := example_of(name):
        parts.append(example)
    return "\n\n".join(parts)


def example_of(name: str) -> str | None:
    """A finding of this code as it is printed for a plan of the tests."""
    file = resources.files("gkdplan.cli") / "examples" / f"{name}.txt"
    return file.read_text(encoding="utf-8").rstrip("\n") if file.is_file() else None
