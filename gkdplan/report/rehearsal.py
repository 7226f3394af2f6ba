"""What `gkdplan verify` measured: a table, and the twin that it ran."""

import math
from collections.abc import Sequence
from typing import Any

from gkdplan.report.words import degrees, layers_of_stages, plural
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import ModelPlan
from gkdplan.runplan.rehearsal import Check, Claim

_CLAIMS = {
    Claim.ITSELF: "a teacher that is the student",
    Claim.LAYOUT: "this layout beside one process",
    Claim.SPLIT: "micro-batches of 1 row beside one process",
}


def rehearsal_report(small: RunPlan, planned: RunPlan, checks: Sequence[Check], width: int) -> str:
    """What was run, a line a number, and where numbers miss, at which parameter."""
    misses = [check for check in checks if not check.holds]
    notes = [wrap("note: ", note, width) for note in scope(small, planned)]
    verdict = f"{plural(len(misses), 'number')} beyond tolerance" if misses else "all within it"
    return "\n".join([*_models(small, width), "", *_table(checks), "", verdict, *notes])


def rehearsal_json(small: RunPlan, planned: RunPlan, checks: Sequence[Check]) -> dict[str, Any]:
    """`measured` is null where it is not finite."""
    return {
        "ok": all(check.holds for check in checks),
        "num_ranks": small.layout.world_size,
        "checks": [
            {
                "claim": check.claim,
                "what": check.what,
                "measured": check.measured if math.isfinite(check.measured) else None,
                "tolerance": check.tolerance,
                "parameter": check.parameter,
                "ok": check.holds,
            }
            for check in checks
        ],
        "notes": list(scope(small, planned)),
    }


def scope(small: RunPlan, planned: RunPlan) -> list[str]:
    """In what the rehearsal was not the plan."""
    rows = "random letters" + ("" if small.models.student.shape.vision is None else " and images")
    notes = [f"random weights in fp32, rows of {rows}, on the cpu; sampling did not run"]
    wanted, run = planned.layout, small.layout
    if wanted.world_size != run.world_size:
        notes.append(
            f"{plural(run.world_size, 'rank')} stand for {wanted.world_size:,}: "
            f"the plan's student is {degrees(wanted.student)}"
            + ("" if wanted.teacher == wanted.student else f"; teacher {degrees(wanted.teacher)}")
        )
    return notes


def _models(small: RunPlan, width: int) -> list[str]:
    layout, models = small.layout, small.models
    return [
        f"{small.name} at reduced size on {plural(layout.world_size, 'cpu process', 'es')}",
        wrap("student  ", f"{_sizes(models.student)}; {degrees(layout.student)}", width),
        wrap("teacher  ", f"{_sizes(models.teacher)}; {degrees(layout.teacher)}", width),
    ]


def _sizes(model: ModelPlan) -> str:
    shape = model.shape
    experts = "" if shape.moe is None else f", {shape.moe.num_experts} experts"
    vision = shape.vision
    eyes = "" if vision is None else f", a tower of {plural(vision.num_layers, 'layer')}"
    return (
        f"{shape.family}, {layers_of_stages(model)}, hidden {shape.hidden_size}, "
        f"{shape.num_attention_heads} heads over {shape.num_kv_heads}{experts}{eyes}"
    )


def _table(checks: Sequence[Check]) -> list[str]:
    rows = [("", "measured", "tolerance", ""), *map(_row, checks)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        (row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3])
        for row in rows
    ]
    return ["  ".join(line).rstrip() for line in lines]


def _row(check: Check) -> tuple[str, str, str, str]:
    what = f"largest {check.what}" if _is_largest(check) else check.what
    verdict = "ok" if check.holds else f"MISS {check.parameter or ''}".rstrip()
    numbers = f"{check.measured:.1e}", f"{check.tolerance:.0e}"
    return f"{_CLAIMS[check.claim]}: {what}", *numbers, verdict


def _is_largest(check: Check) -> bool:
    """The others are errors, relative to what they are held against."""
    return check.claim is Claim.ITSELF and check.what == "gradient"
