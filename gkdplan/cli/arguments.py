"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from gkdplan.quiet import be_quiet

PlanPath = Annotated[
    str | None, typer.Argument(metavar="PLAN", help="A plan; left out, plan.toml.")
]
PlanOrLockPath = Annotated[
    str | None,
    typer.Argument(metavar="PLAN|LOCK", help="A plan, or a lock (.json); left out, plan.toml."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _hush(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.call_on_close(be_quiet())


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Say results and errors only.", callback=_hush, expose_value=False
    ),
]
