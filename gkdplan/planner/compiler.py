"""A plan and its facts become a run plan and diagnostics."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.facts.model import Device, Facts
from gkdplan.planner.checks.declaration import check_declaration
from gkdplan.planner.checks.fit import check_fit
from gkdplan.planner.pricing import Priced, price
from gkdplan.planner.steps import lower_steps
from gkdplan.planner.timing.prediction import predict
from gkdplan.runplan.codec import seal
from gkdplan.runplan.model import SCHEMA_VERSION, RunPlan
from gkdplan.runplan.schedule import Schedule
from gkdplan.spec.plan import Plan


@dataclass(frozen=True, slots=True)
class Compilation:
    """`run_plan` is None where the layout is impossible or not yet available; it may be there
    although there are errors."""

    run_plan: RunPlan | None
    diagnostics: tuple[Diagnostic, ...]


def compile_plan(plan: Plan, facts: Facts, tool: str) -> Compilation:
    """Decide everything that the plan leaves open, price it, and check it.

    Never raises for a valid plan; all findings come at once. `tool` names the compiler and its
    version in the run plan. A plan that does not fit has an error and a run plan all the same,
    whose ledger shows by how much.
    """
    declared = check_declaration(plan, facts)
    if not _can_be_priced(declared):
        return Compilation(None, declared)
    priced = price(plan, facts)
    limit = None if plan.cluster.memory_limit is None else priced.ledger.budget_bytes
    priced = replace(priced, ledger=replace(priced.ledger, limit_bytes=limit))
    run_plan = seal(_run_plan(priced, facts.device, tool))
    return Compilation(run_plan, declared + check_fit(plan, facts, priced.ledger, priced.choices))


def _can_be_priced(findings: Iterable[Diagnostic]) -> bool:
    """A layout that cannot be, or a feature that would be ignored, would make every byte a lie."""
    return not any(
        finding.severity is Severity.ERROR and finding.code.startswith(("GK2", "GK590"))
        for finding in findings
    )


def _run_plan(priced: Priced, device: Device, tool: str) -> RunPlan:
    decided = priced.draft
    return RunPlan(
        schema_version=SCHEMA_VERSION,
        tool=tool,
        fingerprint="",
        checksum="",
        name=decided.name,
        inputs=decided.inputs,
        models=decided.models,
        layout=decided.layout,
        objective=decided.objective,
        sampling=decided.sampling,
        data=decided.data,
        batch=decided.batch,
        optimizer=decided.optimizer,
        training=decided.training,
        ledger=priced.ledger,
        timing=predict(decided, priced.moves, device),
        schedule=Schedule(priced.moves, priced.choices, priced.not_prefetched),
        steps=lower_steps(decided, priced.moves),
    )
