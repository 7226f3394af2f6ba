"""`gkdplan schema`: the vocabulary of a plan as a JSON schema."""

from typing import Annotated

import typer

from gkdplan.cli.terminal import show_json


def schema(
    json: Annotated[bool, typer.Option("--json", help="The schema is JSON either way.")] = False,
) -> None:
    """Print the JSON schema of a plan, for editors."""
    from gkdplan.spec.vocabulary import plan_schema

    show_json(plan_schema())
