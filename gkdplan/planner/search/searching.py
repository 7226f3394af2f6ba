"""The search: rules first, then time, and memory where the border between fitting and not lies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from gkdplan.facts.model import Facts
from gkdplan.planner.checks import availability
from gkdplan.planner.checks.degrees import is_possible
from gkdplan.planner.checks.edits import broken_rules
from gkdplan.planner.checks.laid_out import each_model
from gkdplan.planner.models import student_shape
from gkdplan.planner.search.candidates import Candidate, candidates_of, mesh_of
from gkdplan.planner.search.options import dropped_of, option_of
from gkdplan.planner.search.space import meshes, micro_sizes, savings, with_micro
from gkdplan.runplan.ranking import Counts, Dropped, Option, Ranking
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Verdict

SEARCHED = (
    "student.parallel",
    "student.recompute",
    "teacher.parallel",
    "teacher.offload",
    "optimizer.offload",
    "batch.micro",
)
"""Keys and tables that candidates set."""


@dataclass(frozen=True, slots=True)
class Found:
    """`plans` are those of the ranking's options, in its order."""

    ranking: Ranking
    plans: tuple[Plan, ...]


def search(plan: Plan, facts: Facts, top: int = 10, *, include_planned: bool = False) -> Found:
    """The `top` fastest layouts of the plan that fit; its other keys stay as they are.

    Without `include_planned` those that `gkdplan run` would refuse are left out and counted. Every
    option was priced and timed by itself.
    """
    considered = against_rules = planned = 0
    candidates: list[Candidate] = []
    for mesh in meshes(plan, facts):
        of_mesh = savings(mesh, student_shape(plan, facts).num_layers)
        sizes = micro_sizes(mesh) or (mesh.batch.micro,)
        kept = _kept(mesh, sizes, facts)
        considered += len(sizes) * len(of_mesh)
        against_rules += (len(sizes) - len(kept)) * len(of_mesh)
        if not kept:
            continue
        run = [(saving, _runs(saving.applied_to(mesh))) for saving in of_mesh]
        wanted = [(saving, runs) for saving, runs in run if runs or include_planned]
        planned += (len(of_mesh) - len(wanted)) * len(kept)
        if wanted:
            laid_out = mesh_of(mesh, kept, facts)
            for saving, runs in wanted:
                candidates += candidates_of(laid_out, saving, runs, facts)
    candidates.sort(key=lambda candidate: candidate.step_s)
    num_fitting = sum(candidate.fits for candidate in candidates)
    counts = Counts(considered, against_rules, planned, len(candidates) - num_fitting, num_fitting)
    ranked = list(islice(_fitting(candidates, plan, facts), top))
    ranking = Ranking(
        counts=counts,
        options=tuple(option for option, _ in ranked),
        dropped=_dropped(candidates, plan, facts),
        own=_own(plan, facts),
    )
    return Found(ranking, tuple(found for _, found in ranked))


def _kept(mesh: Plan, sizes: Sequence[int], facts: Facts) -> tuple[int, ...]:
    """The micro-batches with which the mesh keeps every rule."""
    if not all(is_possible(model) for model in each_model(mesh, facts)):
        return ()
    return tuple(size for size in sizes if not broken_rules(with_micro(mesh, size), facts))


def _runs(plan: Plan) -> bool:
    """Whether `gkdplan run` refuses nothing of what is searched; the rest is the plan's own."""
    findings = availability.value_is_run(plan)
    return not any((finding.path or "").startswith(SEARCHED) for finding in findings)


def _fitting(
    candidates: Sequence[Candidate], plan: Plan, facts: Facts
) -> Iterator[tuple[Option, Plan]]:
    """Those that fit when they are priced by themselves."""
    for candidate in candidates:
        if candidate.fits:
            option = option_of(candidate.plan, plan, facts, runs=candidate.runs)
            if option.verdict is not Verdict.OVER:
                yield option, candidate.plan


def _dropped(candidates: Sequence[Candidate], plan: Plan, facts: Facts) -> Dropped | None:
    over = (candidate for candidate in candidates if not candidate.fits)
    fastest = next(over, None)
    if fastest is None:
        return None
    return dropped_of(fastest.plan, plan, facts, runs=fastest.runs)


def _own(plan: Plan, facts: Facts) -> Option | None:
    if broken_rules(plan, facts):
        return None
    return option_of(plan, plan, facts, runs=_runs(plan))
