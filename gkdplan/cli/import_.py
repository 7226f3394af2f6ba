"""`gkdplan import swift FILE`: a command of ms-swift as a plan."""

import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import typer

from gkdplan.cli.arguments import AsJson, Quiet
from gkdplan.cli.files import read_text, refuse_existing, write_whole
from gkdplan.cli.findings import show_findings
from gkdplan.cli.terminal import remark, show_json
from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.report.diagnostics import check_json


def import_(
    tool: Annotated[Literal["swift"], typer.Argument(metavar="swift", help="Whose command it is.")],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A script with `megatron rlhf`, or a YAML of its flags."
        ),
    ],
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="PLAN", help="Write the plan there.")
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="The GPU, which no flag names.")
    ] = "h100-80gb",
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Turn a command of ms-swift into a plan.

    Each flag that has no counterpart is named, here and in the plan.
    """
    from gkdplan.swift.flags import read_command
    from gkdplan.swift.plan_text import plan_text
    from gkdplan.swift.translation import translate

    translation = translate(read_command(file, read_text(file), read_text), device)
    text = plan_text(translation, os.path.basename(file))
    lost = [
        Diagnostic(
            "GK011",
            Severity.WARNING,
            f"`--{loss.flag.written}` has no counterpart: {loss.why}",
            span=loss.flag.span,
        )
        for loss in translation.lost
    ]
    if output:
        refuse_existing(Path(output))
        write_whole(Path(output), text)
    if json:
        show_json({**check_json(lost, None), "plan": text})
        return
    for _, of_one_file in groupby(lost, lambda finding: finding.span and finding.span.file):
        show_findings(tuple(of_one_file), sys.stderr)
    if output:
        remark(f"wrote {output}: `gkdplan check {output}`")
    else:
        print(text, end="")
