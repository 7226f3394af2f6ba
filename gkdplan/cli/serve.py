"""`gkdplan serve`: the server that a plan samples from, or that its teacher is behind."""

import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from gkdplan.cli.arguments import PlanPath
from gkdplan.cli.compiling import Compiled, compile_file
from gkdplan.cli.findings import show_findings
from gkdplan.cli.runtime import runtime
from gkdplan.cli.terminal import show_json
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.planner.engine import server_limits
from gkdplan.report.diagnostics import check_json
from gkdplan.vocab import Role

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def serve(
    path: PlanPath = None,
    role: Annotated[
        Role, typer.Option(help="The student that samples, or the teacher that scores.")
    ] = Role.STUDENT,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Of several servers of the plan, this one."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print what would be started, and start nothing.")
    ] = False,
) -> None:
    """Start the server that a plan samples from, or its teacher's."""
    compiled = compile_file(path)
    run_plan = compiled.require()
    assert compiled.plan is not None
    with compiled.placing():
        address = _address(_urls(compiled, role), role, url)
        is_guarded = role is Role.TEACHER or run_plan.sampling.server_key
        limits = server_limits(compiled.plan, run_plan, role)
        if json:
            words = runtime("serving").command(
                run_plan, role, address, limits, is_guarded=is_guarded
            )
            answer = check_json(compiled.diagnostics, run_plan.ledger)
            show_json(answer | {"role": role, "url": address, "command": [*words]})
            return
        show_findings(compiled.diagnostics, sys.stderr)
        key = _key(address) if is_guarded else None
        _announce(run_plan.name, role, address, key)
        runtime("serving").become_server(run_plan, role, address, limits, key)


def _urls(compiled: Compiled, role: Role) -> tuple[str, ...]:
    run_plan = compiled.require()
    if role is Role.STUDENT:
        return run_plan.sampling.server_urls
    server = run_plan.models.teacher.server
    return () if server is None else server.urls


def _address(urls: tuple[str, ...], role: Role, asked: str | None) -> str:
    """The one that is asked for, or the only one; raises UserError (GK547) without."""
    if asked is None and len(urls) == 1:
        return urls[0]
    if asked in urls:
        return asked
    raise UserError(_nothing_to_serve(urls, role, asked))


def _nothing_to_serve(urls: tuple[str, ...], role: Role, asked: str | None) -> Diagnostic:
    key = "generation.server_url" if role is Role.STUDENT else "teacher.server"
    if not urls:
        other = Role.TEACHER if role is Role.STUDENT else Role.STUDENT
        return error(
            "GK547",
            f"the plan has no server for its {role}",
            help=(f"name one in `{key}`, or serve the {other} with `--role {other}`",),
        )
    return error(
        "GK547",
        f"the plan has {len(urls)} servers for its {role}"
        if asked is None
        else f"`{asked}` is no server of the plan's {role}",
        key,
        help=tuple(f"start one with `--url {one}`" for one in urls),
    )


def _key(address: str) -> str:
    try:
        key: str = runtime("server_keys").keep_key(address)
    except OSError as failure:
        raise UserError(
            error(
                "GK505",
                f"the key of {address} cannot be kept: {failure}",
                help=("set `VLLM_API_KEY`, here and where the run starts",),
            )
        ) from failure
    return key


def _announce(name: str, role: Role, address: str, key: str | None) -> None:
    print(f"serving the {role} of {name} at {address}, until Ctrl-C", file=sys.stderr)
    if key is None:
        print("no key is asked for: `generation.server_key` is false", file=sys.stderr)
        if urlsplit(address).hostname not in LOOPBACK:
            print("whoever reaches the address can replace the weights", file=sys.stderr)
    sys.stderr.flush()
