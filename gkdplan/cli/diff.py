"""`gkdplan diff`: what differs between two plans or locks, by decision."""

from dataclasses import asdict
from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson
from gkdplan.cli.files import compile_or_read
from gkdplan.cli.terminal import show, show_json, width
from gkdplan.report.changes import change_list
from gkdplan.runplan.diff import compare
from gkdplan.runplan.model import SCHEMA_VERSION


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A plan, or a lock (.json).")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another one.")],
    json: AsJson = False,
) -> None:
    """List what differs between two plans or locks.

    Each change is safe, reshard (the state is spread anew) or restart (it is another run).
    """
    changes = compare(compile_or_read(old).decided(), compile_or_read(new).decided())
    if json:
        rows = [asdict(change) for change in changes]
        show_json({"schema_version": SCHEMA_VERSION, "ok": True, "changes": rows})
    else:
        show(change_list(changes, width()))
