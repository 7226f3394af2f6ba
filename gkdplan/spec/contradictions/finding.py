"""GK006, at its key."""

from gkdplan.diagnostics import Diagnostic, error


def contradiction(path: str, message: str, help: str, label: str = "") -> Diagnostic:
    return error("GK006", message, path, label=label, help=(help,))
