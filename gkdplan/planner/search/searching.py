"""The search: rules first, then time, and memory from the fastest on until enough of them fit."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from gkdplan.facts.model import Facts
from gkdplan.planner.checks import availability, recompute
from gkdplan.planner.checks.degrees import is_possible
from gkdplan.planner.checks.edits import broken_rules, fits
from gkdplan.planner.checks.laid_out import each_model
from gkdplan.planner.models import student_shape
from gkdplan.planner.pricing import price
from gkdplan.planner.search.candidates import Candidate, candidates_of
from gkdplan.planner.search.options import dropped_of, option_of
from gkdplan.planner.search.space import Saving, meshes, micro_sizes, savings, with_micro
from gkdplan.planner.timing.prediction import likely_step_s
from gkdplan.runplan.ranking import Counts, Dropped, Option, Ranking
from gkdplan.spec.plan import Plan

SEARCHED = (
    "student.parallel",
    "student.recompute",
    "teacher.parallel",
    "teacher.offload",
    "teacher.stream",
    "optimizer.offload",
    "student.offload",
    "batch.micro",
)
"""Keys and tables that candidates set."""
Tell = Callable[[int, int], None]
"""Meshes whose layouts are predicted, and of how many."""


def _untold(done: int, total: int) -> None:
    """Nobody waits."""


@dataclass(frozen=True, slots=True)
class Found:
    """`plans` are those of the ranking's options, in its order."""

    ranking: Ranking
    plans: tuple[Plan, ...]


def search(
    plan: Plan,
    facts: Facts,
    top: int = 10,
    *,
    include_planned: bool = False,
    tell: Tell = _untold,
) -> Found:
    """The `top` fastest layouts of the plan that fit; its other keys stay as they are.

    Without `include_planned` those that `gkdplan run` would refuse are left out and counted. Where
    nothing fits, all that can leave the device does: a streamed teacher, the resting student, and
    `tell` hears the meshes again.
    """
    found = _search(plan, facts, top, include_planned, tell, all_offloads=False)
    if found.plans:
        return found
    return _search(plan, facts, top, include_planned, tell, all_offloads=True)


def _search(
    plan: Plan, facts: Facts, top: int, include_planned: bool, tell: Tell, *, all_offloads: bool
) -> Found:
    considered = planned = 0
    broken: Counter[str] = Counter()
    candidates: list[Candidate] = []
    every_mesh = tuple(meshes(plan, facts))
    for num_done, mesh in enumerate(every_mesh):
        tell(num_done, len(every_mesh))
        num_layers = student_shape(plan, facts).num_layers
        of_mesh = savings(mesh, num_layers, all_offloads=all_offloads)
        sizes = micro_sizes(mesh) or (mesh.batch.micro,)
        considered += len(sizes) * len(of_mesh)
        faults = _faults(of_mesh[0].applied_to(mesh), sizes, facts)
        kept = tuple(size for size in sizes if size not in faults)
        broken.update(code for code in faults.values() for _ in of_mesh)
        if not kept:
            continue
        possible = []
        for saving in of_mesh:
            if code := _fault_of(saving, mesh, facts):
                broken[code] += len(kept)
            else:
                possible.append(saving)
        run = [(saving, _runs(saving.applied_to(mesh))) for saving in possible]
        wanted = [(saving, runs) for saving, runs in run if runs or include_planned]
        planned += (len(possible) - len(wanted)) * len(kept)
        if wanted:
            candidates += candidates_of(mesh, kept, wanted, facts)
    fitting, over = _fastest(candidates, top, facts)
    num_slower = len(candidates) - len(fitting) - len(over)
    ranking = Ranking(
        counts=Counts(
            considered, broken.total(), planned, len(over), num_slower, tuple(broken.most_common())
        ),
        options=tuple(
            option_of(found.plan, plan, facts, runs=found.series.runs) for found in fitting
        ),
        dropped=_dropped(over, plan, facts),
        own=_own(plan, facts),
    )
    return Found(ranking, tuple(found.plan for found in fitting))


def _fastest(
    candidates: Sequence[Candidate], top: int, facts: Facts
) -> tuple[list[Candidate], list[Candidate]]:
    """The first that fit, and those that were passed over because they do not.

    Where one does not fit, none of its series with larger micro-batches does. One that fits may
    lack the room to hide its copies: then it waits until its own seconds are the fewest.
    """
    fitting: list[Candidate] = []
    over: list[Candidate] = []
    smallest_over: dict[int, int] = {}
    queue = [(found.step_s, place, False) for place, found in enumerate(candidates)]
    heapify(queue)
    while queue and len(fitting) < top:
        _, place, is_priced = heappop(queue)
        candidate = candidates[place]
        series, micro = id(candidate.series), candidate.micro
        if is_priced:
            fitting.append(candidate)
            continue
        is_over = micro >= smallest_over.get(series, micro + 1)
        priced = None if is_over else price(candidate.plan, facts)
        if priced is None or not fits(priced.ledger, facts.device):
            smallest_over[series] = min(micro, smallest_over.get(series, micro))
            over.append(candidate)
        else:
            seconds = likely_step_s(priced.draft, priced.moves, facts.device)
            heappush(queue, (seconds, place, True))
    return fitting, over


def _faults(mesh: Plan, sizes: Sequence[int], facts: Facts) -> dict[int, str]:
    """Micro-batch -> the first code that it breaks with the mesh, of those that break one."""
    if not all(is_possible(model) for model in each_model(mesh, facts)):
        return dict.fromkeys(sizes, min(broken_rules(with_micro(mesh, sizes[0]), facts)))
    codes = ((size, broken_rules(with_micro(mesh, size), facts)) for size in sizes)
    return {size: min(of_size) for size, of_size in codes if of_size}


def _fault_of(saving: Saving, mesh: Plan, facts: Facts) -> str | None:
    """The first rule that its recompute breaks with these models."""
    plan = saving.applied_to(mesh)
    found = (finding.code for rule in recompute.RULES for finding in rule(plan, facts))
    return next(found, None)


def _runs(plan: Plan) -> bool:
    """Whether `gkdplan run` refuses nothing of what is searched; the rest is the plan's own."""
    findings = availability.value_is_run(plan)
    return not any((finding.path or "").startswith(SEARCHED) for finding in findings)


def _dropped(over: Sequence[Candidate], plan: Plan, facts: Facts) -> Dropped | None:
    """The fastest of those that do not fit."""
    if not over:
        return None
    return dropped_of(over[0].plan, plan, facts, runs=over[0].series.runs)


def _own(plan: Plan, facts: Facts) -> Option | None:
    if broken_rules(plan, facts):
        return None
    return option_of(plan, plan, facts, runs=_runs(plan))
