"""Arguments and options that several commands share."""

from typing import Annotated

import typer

PlanPath = Annotated[
    str | None, typer.Argument(metavar="PLAN", help="A plan; left out, plan.toml.")
]
PlanOrLockPath = Annotated[
    str | None,
    typer.Argument(metavar="PLAN|LOCK", help="A plan, or a lock (.json); left out, plan.toml."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
