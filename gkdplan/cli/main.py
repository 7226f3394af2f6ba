"""The entry point: one command's module is imported, and every way to fail has its exit code."""

import gc
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import typer

from gkdplan import __version__
from gkdplan.cli import completion
from gkdplan.cli.bugs import show_bug
from gkdplan.cli.runtime import INTERRUPTED
from gkdplan.diagnostics import UserError, error

COMMANDS = {
    "init": "gkdplan.cli.init",
    "check": "gkdplan.cli.check",
    "plan": "gkdplan.cli.plan",
    "memory": "gkdplan.cli.memory",
    "search": "gkdplan.cli.search",
    "run": "gkdplan.cli.run",
    "launch": "gkdplan.cli.launch",
    "sample": "gkdplan.cli.sample",
    "serve": "gkdplan.cli.serve",
    "verify": "gkdplan.cli.verify",
    "show": "gkdplan.cli.show",
    "diff": "gkdplan.cli.diff",
    "watch": "gkdplan.cli.watch",
    "report": "gkdplan.cli.report",
    "export": "gkdplan.cli.export",
    "explain": "gkdplan.cli.explain",
    "schema": "gkdplan.cli.schema",
    "doctor": "gkdplan.cli.doctor",
    "import": "gkdplan.cli.import_",
}
"""Each command is the function in the module named that has the module's own name."""

FIRST_RUN = f"""\
gkdplan {__version__}: plan a distillation, prove that it fits, run exactly that

  gkdplan check plans/quickstart.toml   what is wrong with it, and if it fits
  gkdplan plan plans/quickstart.toml    its layout, memory, schedule and steps
  gkdplan run plans/quickstart.toml     run it

Without a path, each takes plan.toml of the working directory.
`gkdplan --help` lists all commands, `gkdplan schema` the keys of a plan."""

OK, FAILED, BROKEN = 0, 1, 2

UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""What a command line raises that fits no command; typer has no public name for it."""


def main() -> None:
    """Run the command line and exit: 0 good, 1 errors found, 2 usage or a bug, 130 interrupted.

    A command is short: its objects live to its end, so the collector need not look at them, and
    no pydantic plugin of another package is searched for, or changes what a plan means.
    """
    gc.set_threshold(200_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")
    status = run(sys.argv[1:])
    if "triton" not in sys.modules:  # which counts what is left of it at the end, and lists it
        gc.freeze()
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """The exit code of a command line; prints, never raises."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return FAILED
    return status


def _run(arguments: Sequence[str]) -> int:
    as_json = "--json" in arguments
    try:
        command = typer.main.get_command(_app(arguments))
        if completion.is_asked_for():
            completion.answer(command)
        with command.make_context("gkdplan", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    except UsageError as misuse:
        _show_misuse(misuse, as_json)
        return BROKEN
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except UserError as refusal:
        _show_refusal(refusal, as_json)
        return FAILED
    except BrokenPipeError:
        raise
    except Exception as bug:
        show_bug(bug)
        return BROKEN
    return OK


def _app(arguments: Sequence[str]) -> typer.Typer:
    """The command that is asked for, or all of them to list."""
    app = typer.Typer(
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Plan a distillation, prove that it fits, and run exactly that plan.",
    )
    app.callback(invoke_without_command=True)(_without_command)
    wants_none = arguments[:1] == ["--version"] or not (arguments or completion.is_asked_for())
    asked = COMMANDS.keys() & arguments[:1]
    for name in () if wants_none else asked or COMMANDS:
        app.command(name)(_function(COMMANDS[name]))
    return app


def _function(module: str) -> Callable[..., None]:
    function: Callable[..., None] = getattr(import_module(module), module.rpartition(".")[2])
    return function


def _without_command(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    if version:
        print(f"gkdplan {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(FIRST_RUN)


def _show_misuse(misuse: Any, as_json: bool) -> None:
    """How the command is used and why this is not it: text on stderr, or a finding on stdout."""
    if not as_json:
        misuse.show()
        return
    from gkdplan.cli.findings import show_findings_json

    reason = misuse.format_message().rstrip(".")
    usage = misuse.ctx.get_usage() if misuse.ctx else "Usage: gkdplan COMMAND"
    found = error("GK500", reason[:1].lower() + reason[1:], help=(" ".join(usage.split()),))
    show_findings_json((found,))


def _show_refusal(refusal: UserError, as_json: bool) -> None:
    """The findings: text on stderr, JSON on stdout."""
    from gkdplan.cli.findings import show_findings, show_findings_json

    if as_json:
        show_findings_json(refusal.diagnostics)
    else:
        show_findings(refusal.diagnostics, sys.stderr)
