"""`gkdplan diff`: what differs between two plans or locks, by decision."""

from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson
from gkdplan.cli.files import compile_or_read
from gkdplan.cli.terminal import show, show_json, width
from gkdplan.planner.what_if import peak_differences
from gkdplan.report.changes import change_json, change_list, summary_json
from gkdplan.runplan.model import SCHEMA_VERSION


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A plan, or a lock (.json).")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another one.")],
    json: AsJson = False,
) -> None:
    """List what differs between two plans or locks.

    Each change is safe, reshard (the state is spread anew) or restart (it is another run), and
    shows what it alone does to the peak, and whether something else is learnt.
    """
    before, after = compile_or_read(old).decided(), compile_or_read(new).decided()
    differences = peak_differences(before, after)
    if json:
        show_json(
            {
                "schema_version": SCHEMA_VERSION,
                "ok": True,
                "changes": change_json(before, after, differences),
                "summary": summary_json(before, after),
            }
        )
    else:
        show(change_list(before, after, differences, width()))
