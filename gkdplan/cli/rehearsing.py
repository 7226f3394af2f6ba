"""A plan's step at reduced size, run on processes: the second half of `gkdplan verify`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from gkdplan.cli.compiling import Compiled, compile_loaded
from gkdplan.cli.runtime import runtime
from gkdplan.planner.reduced import (
    Reduced,
    on_one_rank,
    reduce_plan,
    row_by_row,
    taught_by_itself,
    with_models,
)
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.rehearsal import Check, Claim
from gkdplan.spec.plan import Plan

STUDENT_SEED, TEACHER_SEED, ROWS_SEED = 1, 2, 3


def rehearse(compiled: Compiled, run_plan: RunPlan) -> tuple[RunPlan, tuple[Check, ...]]:
    """The reduced run plan, and what was measured of it.

    Raises UserError where this version does not run the plan, or a rank fails.
    """
    assert compiled.plan is not None
    assert compiled.facts is not None
    reduced = reduce_plan(compiled.plan, compiled.facts, run_plan)
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as scratch:
        home = Path(scratch)
        plans = plans_of(written(reduced, home))
        checks = runtime("rehearsal.launch").rehearse(plans, home)
    return plans[Claim.LAYOUT], checks


def written(reduced: Reduced, home: Path) -> Plan:
    """The reduced plan of models and rows that are now in `home`."""
    models = runtime("rehearsal.models")
    models.write_model(home / "student", reduced.student, STUDENT_SEED)
    models.write_model(home / "teacher", reduced.teacher, TEACHER_SEED)
    sees, num_rows = reduced.student.vision is not None, reduced.plan.batch.global_
    models.write_rows(home / "rows.jsonl", num_rows, ROWS_SEED, with_images=sees)
    return with_models(
        reduced.plan,
        student=str(home / "student"),
        teacher=str(home / "teacher"),
        rows=str(home / "rows.jsonl"),
        output=str(home / "run"),
    )


def plans_of(small: Plan) -> Mapping[str, RunPlan]:
    """What each claim runs, and the one process that they are held against."""
    variants = {
        Claim.ITSELF: taught_by_itself(small),
        Claim.LAYOUT: small,
        Claim.SPLIT: row_by_row(small),
        runtime("rehearsal.worker").ALONE: on_one_rank(small),
    }
    return {str(name): _compiled(plan) for name, plan in variants.items()}


def _compiled(plan: Plan) -> RunPlan:
    compiled = compile_loaded(plan)
    errors = compiled.errors_beside()
    assert not errors, errors
    return compiled.decided()
