"""`gkdplan search`: layouts that fit, the fastest first, and the best one as a plan."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gkdplan.cli.arguments import AsJson, PlanPath, Quiet
from gkdplan.cli.compiling import Compiled, compile_file
from gkdplan.cli.files import refuse_existing, write_whole
from gkdplan.cli.findings import show_findings
from gkdplan.cli.terminal import remark, show, show_json, width
from gkdplan.cli.waiting import bar
from gkdplan.diagnostics import Diagnostic, UserError
from gkdplan.planner.checks.edits import Edit, edits_that_fit
from gkdplan.planner.search.searching import SEARCHED, Found
from gkdplan.planner.search.searching import search as search_layouts
from gkdplan.report.search import ranking_json, ranking_table
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import SCHEMA_VERSION
from gkdplan.runplan.ranking import Ranking
from gkdplan.spec.load import load_plan
from gkdplan.vocab import Verdict

NOT_RUN = "GK591"
LAYOUT_CODES = ("GK2", "GK301", "GK303", "GK420")
"""Errors that another layout may mend."""


def search(
    path: PlanPath = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write the best plan.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, max=1000, help="Layouts to show.")] = 10,
    planned: Annotated[
        bool, typer.Option("--planned", help="Also layouts that `gkdplan run` does not run yet.")
    ] = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Rank the layouts of a plan that fit by their predicted time.

    Layouts are meshes of both models, micro-batches, recompute and offload; all other keys stay.
    With `-o` the fastest becomes a plan.
    """
    if output:
        refuse_existing(Path(output))
    compiled = compile_file(path)
    refuse_other_errors(compiled)
    assert compiled.plan is not None
    assert compiled.facts is not None
    show_findings(_not_run(compiled), sys.stderr)
    with bar("meshes") as tell:
        found = search_layouts(
            compiled.plan, compiled.facts, top, include_planned=planned, tell=tell
        )
    edits = _edits(compiled, found.ranking)
    if output and found.plans:
        assert compiled.source is not None
        write_whole(Path(output), plan_text_of(output, compiled.source.text, found))
        remark(f"wrote {output}")
    elif output:
        remark(f"{output} is not written")
    if json:
        show_json(_answer(found.ranking, edits))
    else:
        show("\n".join([ranking_table(found.ranking, width()), *_listed(edits)]))
    raise typer.Exit(0 if found.plans else 1)


def refuse_other_errors(compiled: Compiled) -> None:
    """Raises UserError with the errors that no layout mends."""
    if others := compiled.errors_beside(*LAYOUT_CODES):
        raise UserError(*others)


def _not_run(compiled: Compiled) -> list[Diagnostic]:
    """What `gkdplan run` refuses of the plan whatever its layout is."""
    return [
        finding
        for finding in compiled.diagnostics
        if finding.code == NOT_RUN and not (finding.path or "").startswith(SEARCHED)
    ]


def _edits(compiled: Compiled, ranking: Ranking) -> tuple[Edit, ...]:
    """Single edits that make the plan as it stands fit, where it keeps every rule and does not."""
    if ranking.own is None or ranking.own.verdict is not Verdict.OVER:
        return ()
    assert compiled.plan is not None
    assert compiled.facts is not None
    return tuple(edits_that_fit(compiled.plan, compiled.facts))


def _listed(edits: Sequence[Edit]) -> Iterator[str]:
    if edits:
        yield "single edits that make the plan's own layout fit:"
    for edit in edits:
        yield wrap("  ", edit.sentence, width())


def plan_text_of(path: str, text: str, found: Found, place: int = 0) -> str:
    """The text of a plan with the changes of an option, the best one by default."""
    from gkdplan.spec.edit import edited

    text = edited(text, dict(found.ranking.options[place].changes))
    loaded = load_plan(path, text).plan
    assert loaded is not None
    assert loaded.model_dump() == found.plans[place].model_dump(), "the plan written is another one"
    return text


def _answer(ranking: Ranking, edits: Sequence[Edit]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "ok": bool(ranking.options),
        **ranking_json(ranking),
        "edits": [asdict(edit) for edit in edits],
    }
