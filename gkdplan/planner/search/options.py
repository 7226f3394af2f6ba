"""A candidate as the ranking shows it: its layout, its memory, its time and what it changes."""

from collections.abc import Iterator

from gkdplan.facts.model import Facts
from gkdplan.planner.auto_offload import OFFLOADABLE
from gkdplan.planner.memory.ledger import usable_bytes
from gkdplan.planner.pricing import price
from gkdplan.planner.timing.prediction import likely_step_s
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.ranking import Dropped, Option, Value
from gkdplan.spec.models import Parallel, Recompute
from gkdplan.spec.plan import Plan

Changes = tuple[tuple[str, Value], ...]


def option_of(candidate: Plan, plan: Plan, facts: Facts, *, runs: bool) -> Option:
    """Priced and timed by itself; `plan` is what its changes are counted from."""
    return _option(candidate, plan, facts, runs)[0]


def dropped_of(candidate: Plan, plan: Plan, facts: Facts, *, runs: bool) -> Dropped:
    """As `option_of`, with what it lacks."""
    option, ledger = _option(candidate, plan, facts, runs)
    peak = ledger.fullest_class.phases[ledger.peak_phase]
    host_bytes = ledger.host_bytes_per_node - facts.device.host_memory_bytes_per_node
    return Dropped(
        option,
        device_bytes=max(0, ledger.peak_bytes - usable_bytes(peak, ledger.budget_bytes)),
        host_bytes=max(0, host_bytes),
    )


def changes_of(candidate: Plan, plan: Plan) -> Changes:
    """The keys of `plan` that the candidate sets otherwise, in the order of the vocabulary."""
    tables = (
        ("student.parallel", plan.student.parallel, candidate.student.parallel),
        ("student.recompute", plan.student.recompute, candidate.student.recompute),
    )
    changes: list[tuple[str, Value]] = []
    for path, old, new in tables:
        changes += _changes_of_table(path, old, new)
    for table in OFFLOADABLE:
        new, own = getattr(candidate, table), getattr(plan, table)
        for key in ("offload", "prefetch", "stream"):
            after = getattr(new, key, None)
            if after != getattr(own, key, None):
                changes.append((f"{table}.{key}", after))
    changes += _changes_of_teacher(plan.teacher.parallel, candidate.teacher.parallel)
    if candidate.batch.micro != plan.batch.micro:
        changes.append(("batch.micro", candidate.batch.micro))
    return tuple(changes)


def _option(candidate: Plan, plan: Plan, facts: Facts, runs: bool) -> tuple[Option, Ledger]:
    priced = price(candidate, facts)
    decided, ledger = priced.draft, priced.ledger
    step_s = likely_step_s(decided, priced.moves, facts.device)
    tokens = decided.batch.global_rows * decided.sequence_tokens(decided.layout.student)
    option = Option(
        student=decided.layout.student,
        teacher=decided.layout.teacher,
        micro_rows=decided.batch.micro_rows,
        recompute=decided.models.student.recompute,
        teacher_offload=decided.models.teacher.offload,
        optimizer_offload=decided.optimizer.offload,
        teacher_streamed=decided.models.teacher.stream,
        student_grads=decided.models.student.idle_grads,
        student_params=decided.models.student.idle_params,
        peak_bytes=ledger.peak_bytes,
        peak_phase=ledger.peak_phase,
        budget_bytes=ledger.budget_bytes,
        host_bytes_per_node=ledger.host_bytes_per_node,
        verdict=ledger.verdict,
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        runs=runs,
        changes=changes_of(candidate, plan),
    )
    return option, ledger


def _changes_of_teacher(old: Parallel | None, new: Parallel | None) -> Changes:
    """A teacher without a mesh of its own has the student's: its table is then removed whole, and
    a new one has a key though its mesh be the plainest."""
    table = "teacher.parallel"
    if new is None:
        return () if old is None else ((table, None),)
    if old is None:
        changes = dict(_changes_of_table(table, Parallel(), new))
        return tuple({f"{table}.tensor": new.tensor, **changes}.items())
    return tuple(_changes_of_table(table, old, new))


def _changes_of_table(
    table: str, old: Parallel | Recompute, new: Parallel | Recompute
) -> Iterator[tuple[str, Value]]:
    for key in type(old).model_fields:
        value = getattr(new, key)
        if value != getattr(old, key):
            yield f"{table}.{key}", None if value == () else value
