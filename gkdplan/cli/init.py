"""`gkdplan init`: a first plan that passes check, in a plain and fast layout that fits."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gkdplan.cli.arguments import AsJson, Quiet
from gkdplan.cli.compiling import Compiled, compile_loaded
from gkdplan.cli.completion import device_names, models
from gkdplan.cli.files import refuse_existing, write_whole
from gkdplan.cli.findings import show_findings, show_findings_json
from gkdplan.cli.search import LAYOUT_CODES, plan_text_of, refuse_other_errors
from gkdplan.cli.terminal import remark, show, width
from gkdplan.cli.waiting import bar
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.planner.search.searching import Found
from gkdplan.planner.search.searching import search as search_layouts
from gkdplan.report.search import ranking_table
from gkdplan.report.verdict import verdict
from gkdplan.runplan.ranking import Option
from gkdplan.spec.beginning import Beginning, first_plan
from gkdplan.spec.load import load_plan
from gkdplan.vocab import Kernels, Verdict

NOT_AVAILABLE = "GK590"
CONSIDERED = 20
"""Layouts among which one with room to spare is looked for."""
AS_FAST = 1.05
"""Predicted times whose ratio is below this do not tell two layouts apart."""

Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="A directory, or a hub id.", autocompletion=models),
]


def init(
    path: Annotated[str, typer.Argument(metavar="PLAN", help="The plan to write.")] = "plan.toml",
    student: Model = None,
    teacher: Model = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Rows; may be given several times.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help='Of the device table, or "cpu".', autocompletion=device_names
        ),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, metavar="N", help="Devices of a node.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Nodes.")] = 1,
    lora: Annotated[bool, typer.Option("--lora", help="Train adapters.")] = False,
    image_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="Rows may name images there; may be given several times."
        ),
    ] = None,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Write a first plan, which fits and passes check.

    What no option says is asked for. The layout fits, with room to spare where one does, and is the
    plainest of those that are about as fast as the fastest.
    """
    refuse_existing(Path(path))
    known = Beginning(
        student=student or _ask("--student", "the student's model"),
        teacher=teacher or _ask("--teacher", "the teacher's model"),
        train=tuple(data or (_ask("--data", "a file of rows"),)),
        device=device or _ask("--device", 'the GPU, such as "h100-80gb", or "cpu"'),
        num_nodes=nodes,
        devices_per_node=devices,
        lora=lora,
        image_hosts=tuple(image_host or ()),
    )
    text, compiled = _first(path, known)
    assert compiled.plan is not None
    assert compiled.facts is not None
    with bar("meshes") as tell:
        found = search_layouts(compiled.plan, compiled.facts, top=CONSIDERED, tell=tell)
    if not found.plans:
        show(ranking_table(found.ranking, width()))
        raise UserError(_without_a_layout(path))
    text = plan_text_of(path, text, found, _plainest(found))
    written = _compiled(path, text)
    run_plan = written.require()
    write_whole(Path(path), text)
    if json:
        show_findings_json(written.diagnostics, run_plan.ledger)
        return
    show_findings(written.diagnostics, sys.stderr)
    print(f"wrote {path}\n{verdict(run_plan)}")
    remark(f"\nnext: {_next(path)}")


def _first(path: str, known: Beginning) -> tuple[str, Compiled]:
    """The plan before a layout is sought, with kernels of torch where its models need them.

    Raises UserError where neither kernels nor a layout mend what is wrong.
    """
    text = first_plan(known)
    compiled = _compiled(path, text)
    if any(finding.code == NOT_AVAILABLE for finding in compiled.diagnostics):
        with_torch = first_plan(replace(known, kernels=Kernels.TORCH))
        other = _compiled(path, with_torch)
        if not other.errors_beside(*LAYOUT_CODES):
            return with_torch, other
    refuse_other_errors(compiled)
    return text, compiled


def _plainest(found: Found) -> int:
    """The place of the layout that sets the fewest keys, among those that have room to spare, or
    among all where none has, and are about as fast as the fastest of them."""
    options = found.ranking.options
    roomy = [option for option in options if option.verdict is Verdict.FITS] or list(options)
    as_fast = [option for option in roomy if option.step_s <= AS_FAST * roomy[0].step_s]
    return options.index(min(as_fast, key=_keys_set))


def _keys_set(option: Option) -> int:
    return sum(value is not None for _, value in option.changes)


def _compiled(path: str, text: str) -> Compiled:
    loaded = load_plan(path, text)
    if loaded.plan is None:
        raise UserError(*loaded.diagnostics)
    return compile_loaded(loaded.plan)


def _ask(option: str, what: str) -> str:
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{what} is missing, and nobody is there to be asked: `{option}`")
    answer: str = typer.prompt(what, err=True)
    return answer


def _without_a_layout(path: str) -> Diagnostic:
    return error(
        "GK529",
        "no layout of these models fits these devices",
        notes=(f"`{path}` is not written",),
        help=("take more devices (`--devices`), or adapters (`--lora`), or a smaller model",),
    )


def _next(path: str) -> str:
    return f"`gkdplan plan {path}` shows what it decides,\n      `gkdplan run {path}` runs it"
