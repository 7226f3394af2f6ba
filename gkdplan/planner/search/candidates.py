"""Candidates of one mesh and their predicted seconds; their memory is not priced here."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gkdplan.facts.model import Facts
from gkdplan.planner.draft import Draft, draft
from gkdplan.planner.memory.buffer import STUDENT_STATE, TEACHER_BODY
from gkdplan.planner.memory.buffers import price_buffers
from gkdplan.planner.offload import schedule_offload
from gkdplan.planner.search.space import Saving, with_micro
from gkdplan.planner.timing.prediction import student_s, without_student_s
from gkdplan.runplan.model import Recompute as DecidedRecompute
from gkdplan.spec.plan import Plan, Recompute

ALWAYS = "always"
"""What moves whatever is offloaded: a sleeping engine."""
_TABLES = {TEACHER_BODY: "teacher", STUDENT_STATE: "optimizer"}


@dataclass(frozen=True, slots=True)
class Series:
    """A mesh of one saving with micro-batches that rise: its memory does not fall as they do."""

    mesh: Plan
    saving: Saving
    runs: bool

    def plan(self, micro: int) -> Plan:
        return with_micro(self.saving.applied_to(self.mesh), micro)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan of a series, which keeps every rule."""

    series: Series
    micro: int
    step_s: float

    @property
    def plan(self) -> Plan:
        return self.series.plan(self.micro)


def candidates_of(
    mesh: Plan, sizes: Sequence[int], wanted: Sequence[tuple[Saving, bool]], facts: Facts
) -> Iterator[Candidate]:
    """Every micro-batch with every saving that is wanted, each with whether it is run.

    The student's phase depends on recompute, the moves on what is offloaded, and neither on the
    other.
    """
    drafts = [draft(with_micro(mesh, size), facts) for size in sizes]
    others = [without_student_s(decided, facts.device) for decided in drafts]
    students: dict[Recompute, list[float]] = {}
    transfers = _transfers_s(mesh, facts)
    for saving, runs in wanted:
        series = Series(mesh, saving, runs)
        if saving.recompute not in students:
            students[saving.recompute] = [
                student_s(_with_recompute(decided, saving.recompute), facts.device)
                for decided in drafts
            ]
        moving = sum(transfers[name] for name in (ALWAYS, *saving.offloaded))
        times = zip(sizes, others, students[saving.recompute], strict=True)
        for size, other, student in times:
            yield Candidate(series, size, other + student + moving)


def _transfers_s(mesh: Plan, facts: Facts) -> dict[str, float]:
    """Seconds of a step's moves by the table of the plan that asks for them, or `ALWAYS`."""
    everything = Saving(mesh.student.recompute, teacher="cpu", optimizer="cpu")
    decided = draft(everything.applied_to(mesh), facts)
    buffers = [price_buffers(decided, ranks, facts.device) for ranks in decided.layout.classes]
    seconds: dict[str, float] = defaultdict(float)
    for move in schedule_offload(decided, buffers, facts.device):
        seconds[_TABLES.get(move.object, ALWAYS)] += move.seconds
    return seconds


def _with_recompute(decided: Draft, recompute: Recompute) -> Draft:
    again = DecidedRecompute(**recompute.model_dump())
    student = replace(decided.models.student, recompute=again)
    return replace(decided, models=replace(decided.models, student=student))
