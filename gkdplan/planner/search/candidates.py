"""Candidates of one mesh: their predicted seconds, and where they stop to fit."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gkdplan.facts.model import Facts
from gkdplan.planner.checks.edits import fits
from gkdplan.planner.draft import Draft, draft
from gkdplan.planner.pricing import price
from gkdplan.planner.search.space import Saving, with_micro
from gkdplan.planner.timing.prediction import moves_s, student_s, without_student_s
from gkdplan.runplan.model import Recompute as DecidedRecompute
from gkdplan.spec.plan import Plan, Recompute


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan that keeps every rule; `runs` says whether `gkdplan run` takes it."""

    plan: Plan
    step_s: float
    fits: bool
    runs: bool


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh with the micro-batches that it can have, rising, and what their steps take without the
    student's phase, which alone depends on recompute."""

    plan: Plan
    sizes: tuple[int, ...]
    drafts: tuple[Draft, ...]
    without_student_s: tuple[float, ...]


def mesh_of(plan: Plan, sizes: Sequence[int], facts: Facts) -> Mesh:
    drafts = tuple(draft(with_micro(plan, size), facts) for size in sizes)
    seconds = tuple(without_student_s(decided, facts.device) for decided in drafts)
    return Mesh(plan, tuple(sizes), drafts, seconds)


def candidates_of(mesh: Mesh, saving: Saving, runs: bool, facts: Facts) -> Iterator[Candidate]:
    """Every micro-batch. Memory does not fall as they grow, so that only the border is sought."""
    plans = [with_micro(saving.applied_to(mesh.plan), size) for size in mesh.sizes]
    smallest = price(plans[0], facts)
    num_fitting = 0
    if fits(smallest.ledger, facts.device):
        num_fitting = bisect_left(plans, True, lo=1, key=lambda plan: not _fits(plan, facts))
    transfer_s = moves_s(smallest.moves)
    for index, plan in enumerate(plans):
        student = student_s(_with_recompute(mesh.drafts[index], saving.recompute), facts.device)
        step_s = mesh.without_student_s[index] + student + transfer_s
        yield Candidate(plan, step_s, index < num_fitting, runs)


def _fits(plan: Plan, facts: Facts) -> bool:
    return fits(price(plan, facts).ledger, facts.device)


def _with_recompute(decided: Draft, recompute: Recompute) -> Draft:
    again = DecidedRecompute(**recompute.model_dump())
    student = replace(decided.models.student, recompute=again)
    return replace(decided, models=replace(decided.models, student=student))
