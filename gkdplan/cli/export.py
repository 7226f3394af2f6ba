"""`gkdplan export hf`: a run's student as a directory of its own."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from gkdplan.cli.arguments import AsJson, Quiet
from gkdplan.cli.files import refuse_existing
from gkdplan.cli.findings import show_findings
from gkdplan.cli.runtime import runtime
from gkdplan.cli.terminal import show_json
from gkdplan.cli.waiting import bar
from gkdplan.report.diagnostics import check_json
from gkdplan.report.model_card import model_card


def export(
    kind: Annotated[Literal["hf"], typer.Argument(metavar="hf", help="Hugging Face's format.")],
    source: Annotated[
        str, typer.Argument(metavar="RUN_DIR|CHECKPOINT", help="The newest whole one of a run.")
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="DIR", help="A directory to make.")
    ],
    dtype: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option(help="Of the weights; left out, as saved.")
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="The adapters of LoRA, as PEFT has them.")
    ] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Copy a run's student, checked byte for byte, with a model card.

    Without `--adapter` a student of LoRA is merged.
    """
    refuse_existing(Path(output))
    part = "adapter" if adapter else "student"
    exporting = runtime("saved.exporting")
    with bar(f"the {part}") as tell:
        exported = exporting.export(Path(source), Path(output), part, dtype, model_card, tell)
    if json:
        answer = check_json(exported.diagnostics, None)
        show_json({**answer, "checkpoint": str(exported.checkpoint), "directory": output})
    else:
        show_findings(exported.diagnostics, sys.stderr)
        print(f"wrote {output}: the {part} of {exported.checkpoint}")
