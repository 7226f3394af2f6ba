"""Candidates of one mesh: their predicted seconds, and where they stop to fit."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gkdplan.facts.model import Facts
from gkdplan.planner.checks.edits import fits
from gkdplan.planner.draft import Draft, draft
from gkdplan.planner.pricing import price
from gkdplan.planner.search.space import OFFLOADS, with_micro, with_savings
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


def candidates_of(
    mesh: Mesh, recompute: Recompute, runs: bool, facts: Facts
) -> Iterator[Candidate]:
    """Every micro-batch, with the teacher on the device and on the host.

    Memory does not fall as micro-batches grow, so that only the border is sought.
    """
    seconds = [
        rest + student_s(_with_recompute(decided, recompute), facts.device)
        for decided, rest in zip(mesh.drafts, mesh.without_student_s, strict=True)
    ]
    for offload in OFFLOADS:
        saving = with_savings(mesh.plan, recompute, offload)
        plans = [with_micro(saving, size) for size in mesh.sizes]
        priced = [price(plans[0], facts)]
        num_fitting = 0
        if fits(priced[0].ledger, facts.device):
            num_fitting = bisect_left(
                plans, True, lo=1, key=lambda p: not fits(price(p, facts).ledger, facts.device)
            )
        transfer_s = moves_s(priced[0].moves)
        for index, plan in enumerate(plans):
            yield Candidate(plan, seconds[index] + transfer_s, index < num_fitting, runs)


def _with_recompute(decided: Draft, recompute: Recompute) -> Draft:
    again = DecidedRecompute(**recompute.model_dump())
    student = replace(decided.models.student, recompute=again)
    return replace(decided, models=replace(decided.models, student=student))
