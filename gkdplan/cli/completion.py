"""Shell completion: `gkdplan --install-completion`, and what a shell asks for while one types.

Files and directories are the shell's own; typer writes what the shells source.
"""

import os
from typing import Any, NoReturn

VARIABLE = "_GKDPLAN_COMPLETE"
"""By which a shell asks (typer._completion_shared)."""


def is_asked_for() -> bool:
    return VARIABLE in os.environ


def answer(command: Any) -> NoReturn:
    """Print what may come next on the line that the shell's own variables hold, and exit."""
    command.main(args=[], prog_name="gkdplan", complete_var=VARIABLE)
    raise AssertionError("a shell that asks is answered")


def codes() -> list[str]:
    from gkdplan.codes import CODES

    return list(CODES)


def models() -> list[str]:
    """Those whose facts come with gkdplan."""
    from gkdplan.facts.known import known_ids

    return sorted(known_ids())


def device_names() -> list[str]:
    from gkdplan.facts.devices import DEVICES

    return sorted(DEVICES)
