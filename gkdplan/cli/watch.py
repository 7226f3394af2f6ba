"""`gkdplan watch`: a run in the terminal, while it runs or afterwards."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson
from gkdplan.cli.terminal import show, show_json, width
from gkdplan.report.run_record import RunRecord, read_run
from gkdplan.report.watching import is_finished, watching, watching_json
from gkdplan.runplan.model import SCHEMA_VERSION

INTERVAL_S = 1.0


def watch(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run's directory.")],
    json: AsJson = False,
) -> None:
    """Show how far a run is, what it learns and what it takes.

    On a terminal it goes on until the run ends or Ctrl-C; elsewhere it shows the moment.
    """
    run = read_run(Path(run_dir))
    if json:
        show_json({"schema_version": SCHEMA_VERSION, "ok": True, **watching_json(run)})
    elif sys.stdout.isatty():
        _follow(Path(run_dir), run)
    else:
        show(watching(run, width()))


def _follow(run_dir: Path, run: RunRecord) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(Text(watching(run, width())), auto_refresh=False) as live:
        while not is_finished(run):
            time.sleep(INTERVAL_S)
            run = read_run(run_dir)
            live.update(Text(watching(run, width())), refresh=True)
