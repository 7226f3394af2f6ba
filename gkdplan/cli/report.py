"""`gkdplan report`: the page of a run directory, or of a lock."""

from pathlib import Path
from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson
from gkdplan.cli.files import read_lock, write_page
from gkdplan.cli.terminal import show_json
from gkdplan.report.page import lock_page, run_page
from gkdplan.report.run_record import read_run
from gkdplan.runplan.model import SCHEMA_VERSION


def report(
    path: Annotated[
        str, typer.Argument(metavar="RUN_DIR|LOCK", help="A run's directory, or a lock (.json).")
    ],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="Left out: beside what it shows."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a run or a lock as one HTML page, planned beside measured."""
    if path.endswith(".json"):
        page, default = lock_page(read_lock(Path(path))), Path(path).with_suffix(".html")
    else:
        page, default = run_page(read_run(Path(path))), Path(path) / "report.html"
    target = Path(output) if output else default
    write_page(target, page)
    if json:
        show_json({"schema_version": SCHEMA_VERSION, "ok": True, "report": str(target)})
    else:
        print(target)
