"""Candidates of one mesh and their predicted seconds; their memory is not priced here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gkdplan.facts.model import Facts
from gkdplan.planner.draft import Draft
from gkdplan.planner.drafting import draft
from gkdplan.planner.memory.buffer import STUDENT_PARAMS, STUDENT_STATE, TEACHER_BODY
from gkdplan.planner.memory.buffers import phases_of, price_buffers
from gkdplan.planner.offload import schedule_offload
from gkdplan.planner.prefetch import Moves, widest, wishes
from gkdplan.planner.search.space import Saving, with_micro
from gkdplan.planner.timing.exposure import hidden_s
from gkdplan.planner.timing.prediction import student_s, with_student, work_beside_student
from gkdplan.runplan.models import Recompute as DecidedRecompute
from gkdplan.spec.models import Recompute
from gkdplan.spec.plan import Plan

ALWAYS = "always"
"""What moves whatever is offloaded: a sleeping engine."""
_TABLES = {TEACHER_BODY: "teacher", STUDENT_STATE: "optimizer", STUDENT_PARAMS: "student"}


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
    """A plan of a series, which keeps every rule.

    `step_s` are the predicted seconds of its step at the least: with every copy beside all the work
    that it could run beside, whatever room there is.
    """

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
    whole = Saving(mesh.student.recompute, teacher="none", optimizer="none").applied_to(mesh)
    drafts = [draft(with_micro(whole, size), facts) for size in sizes]
    others = [work_beside_student(decided, facts.device) for decided in drafts]
    students: dict[Recompute, list[float]] = {}
    widest_moves = _widest_moves(mesh, facts)
    for saving, runs in wanted:
        series = Series(mesh, saving, runs)
        if saving.recompute not in students:
            students[saving.recompute] = [
                student_s(_with_recompute(decided, saving.recompute), facts.device)
                for decided in drafts
            ]
        own = ("student",) if mesh.student.offload == "cpu" and saving.student is None else ()
        tables = (ALWAYS, *own, *saving.offloaded)
        moves = [m for m in widest_moves if _TABLES.get(m.object, ALWAYS) in tables]
        for size, other, student in zip(sizes, others, students[saving.recompute], strict=True):
            work = with_student(other, student)
            exposed_s = sum(m.seconds for m in moves) - sum(hidden_s(moves, work))
            yield Candidate(series, size, work.step_s + exposed_s)


def _widest_moves(mesh: Plan, facts: Facts) -> Moves:
    """The moves of everything that can be offloaded, as far beside other work as can be."""
    everything = Saving(mesh.student.recompute, teacher="cpu", optimizer="cpu", student="cpu")
    decided = draft(everything.applied_to(mesh), facts)
    buffers = [price_buffers(decided, ranks, facts.device) for ranks in decided.layout.classes]
    moves = schedule_offload(decided, buffers, facts.device)
    return widest(moves, phases_of(decided), wishes(decided))


def _with_recompute(decided: Draft, recompute: Recompute) -> Draft:
    again = DecidedRecompute(**recompute.model_dump())
    student = replace(decided.models.student, recompute=again)
    return replace(decided, models=replace(decided.models, student=student))
