"""An exception that no user caused: said to be ours, with what finds it."""

import os
import sys

from gkdplan import __version__


def show_bug(bug: Exception) -> None:
    """What happened, on stderr, and that the plan is not to blame."""
    lines = [
        f"internal error: {type(bug).__name__}: {bug}",
        *getattr(bug, "__notes__", ()),
        f"this is a bug in gkdplan {__version__}, not in your plan",
    ]
    if os.environ.get("GKDPLAN_TRACEBACK") == "1":
        import traceback

        traceback.print_exception(bug)
    else:
        lines.append("GKDPLAN_TRACEBACK=1 shows where it happened")
    print("\n".join(lines), file=sys.stderr)
