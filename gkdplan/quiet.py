"""Whether only results and errors are said (`--quiet`), here and in processes started from here."""

import os
from collections.abc import Callable

_VARIABLE = "GKDPLAN_QUIET"


def be_quiet() -> Callable[[], None]:
    """From now on; what comes back undoes it."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "1"

    def undo() -> None:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before

    return undo


def is_quiet() -> bool:
    return os.environ.get(_VARIABLE, "0") not in ("", "0")
