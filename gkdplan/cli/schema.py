"""`gkdplan schema`: the vocabulary of a plan as a JSON schema."""

import json as json_text
from typing import Annotated

import typer


def schema(
    json: Annotated[bool, typer.Option("--json", help="The schema is JSON either way.")] = False,
) -> None:
    """Print the JSON schema of a plan, for editors that complete and check TOML."""
    from gkdplan.spec.vocabulary import plan_schema

    print(json_text.dumps(plan_schema(), indent=2, ensure_ascii=False))
