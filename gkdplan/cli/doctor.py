"""`gkdplan doctor`: what this machine has, and what a plan would miss on it."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from gkdplan import __version__
from gkdplan.cli.arguments import AsJson
from gkdplan.cli.compiling import Compiled, compile_file
from gkdplan.cli.findings import show_findings
from gkdplan.cli.runtime import runtime
from gkdplan.cli.terminal import show, show_json, width
from gkdplan.diagnostics import Diagnostic, Severity, UserError
from gkdplan.facts.machine import Machine, Package, look_at_machine
from gkdplan.report.diagnostics import check_json
from gkdplan.report.machine import Row, machine_report
from gkdplan.units import format_bytes

RUNS = "runs"


def doctor(
    path: Annotated[
        str | None,
        typer.Argument(metavar="PLAN", help="Also say what this plan misses here."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Say what this machine has, and what a plan misses on it."""
    compiled = compile_file(path) if path else None
    run_plan = compiled.require() if compiled else None
    machine = look_at_machine(run_plan.training.output if run_plan else RUNS)
    devices = _devices(machine)
    findings = [*_other_versions(machine), *(_missing(compiled) if compiled else ())]
    if json:
        answer = check_json(findings, None)
        found = {"machine": asdict(machine), "devices": devices and asdict(devices)}
        show_json({**answer, "tool": __version__, **found})
    else:
        show(machine_report(list(_rows(machine, devices)), width()))
        if findings:
            print(flush=True)
        show_findings(findings, sys.stdout)
        if path and not findings:
            show(f"\n{path} misses nothing here")
    raise typer.Exit(int(any(finding.severity is Severity.ERROR for finding in findings)))


def _devices(machine: Machine) -> Any:
    """None where torch is not installed."""
    torch = next(package for package in machine.packages if package.name == "torch")
    return runtime("machine.gpus").look_at_devices() if torch.installed else None


def _missing(compiled: Compiled) -> tuple[Diagnostic, ...]:
    """What `gkdplan run` would refuse before the first step."""
    try:
        with compiled.placing():
            runtime("machine.lacking").check_machine(compiled.require())
    except UserError as refusal:
        return refusal.diagnostics
    return ()


def _other_versions(machine: Machine) -> Iterator[Diagnostic]:
    for package in machine.packages:
        if package.installed and not package.is_wanted:
            yield Diagnostic(
                "GK528",
                Severity.WARNING,
                f"`{package.name}` is {package.installed}, and gkdplan was tried with "
                f"{package.wanted}",
                help=(f"`pip install '{package.name}{package.wanted}'`",),
            )


def _rows(machine: Machine, devices: Any) -> Iterator[Row]:
    yield "gkdplan", __version__, ""
    yield "python", machine.python, machine.system
    yield from (_package_row(package) for package in machine.packages)
    yield "cores", str(machine.num_cores), ""
    yield "memory", format_bytes(machine.memory_bytes), "of the host"
    yield "open files", str(machine.max_open_files), "at most, of a process"
    if devices is None:
        yield "devices", "unknown", "torch is not installed"
    else:
        if not devices.gpus:
            yield "gpus", "none", 'a plan with `device = "cpu"` runs here'
        for index, gpu in enumerate(devices.gpus):
            free = format_bytes(gpu.free_bytes)
            yield f"gpu {index}", format_bytes(gpu.memory_bytes), f"{gpu.name}, {free} free"
        for name in ("gloo", "nccl"):
            yield name, "there" if getattr(devices, name) else "not there", _TALKS[name]
    for disk in machine.disks:
        yield f"disk: {disk.use}", format_bytes(disk.free_bytes), f"free at {disk.path}"


_TALKS = {"gloo": "what ranks on CPUs talk over", "nccl": "what ranks on GPUs talk over"}


def _package_row(package: Package) -> Row:
    if package.installed:
        return package.name, package.installed, "" if package.is_wanted else package.wanted
    if package.extra == "base":
        return package.name, "missing", f"gkdplan needs it {package.wanted}"
    use = f"`pip install 'gkdplan[{package.extra}]'`" if package.extra else "used where it is"
    return package.name, "-", use
