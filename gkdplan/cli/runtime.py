"""The door to the runtime, opened only by the commands that run something."""

from importlib import import_module
from typing import Any

from gkdplan.diagnostics import UserError, error


def runtime(module: str) -> Any:
    """A module of the runtime, imported only now: it brings torch."""
    try:
        return import_module(f"gkdplan.runtime.{module}")
    except ModuleNotFoundError as missing:
        raise UserError(
            error(
                "GK507",
                f"running needs `{missing.name}`, which is not installed",
                help=("install it with `pip install 'gkdplan[run]'`",),
            )
        ) from missing
