"""A model over its ranks: what every rule of the layout reads, and where the plan says it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gkdplan.facts.model import Facts
from gkdplan.planner.layout import teacher_parallel, world_size_of
from gkdplan.planner.models import student_shape, teacher_shape
from gkdplan.shape import ModelShape
from gkdplan.spec.models import Parallel
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Role


@dataclass(frozen=True, slots=True)
class LaidOut:
    """One model, or both where they share the axes and what a rule reads of their shapes.

    `table` is where the plan says the axes: a teacher without axes of its own has the student's.
    """

    roles: tuple[Role, ...]
    shape: ModelShape
    parallel: Parallel
    world_size: int
    table: str
    origins: tuple[str, ...]

    @property
    def name(self) -> str:
        return " and ".join(f"`{role}`" for role in self.roles)

    @property
    def has(self) -> str:
        """The name as a subject: "`student` has"."""
        return f"{self.name} {'has' if len(self.roles) == 1 else 'have'}"

    def path(self, key: str) -> str:
        return f"{self.table}.{key}"

    def origin_of(self, key: str, value: object) -> tuple[str, ...]:
        """The notes that say where a number of the shape came from."""
        return tuple(f"{key} = {value}, from {origin}" for origin in self.origins)

    def with_axes(self, **axes: object) -> "LaidOut":
        return replace(self, parallel=self.parallel.model_copy(update=axes))


def each_model(plan: Plan, facts: Facts) -> tuple[LaidOut, ...]:
    """The student, and the teacher where it is on the ranks and not behind a server."""
    student = student_laid_out(plan, facts)
    if plan.teacher.server is not None:
        return (student,)
    owner = Role.STUDENT if plan.teacher.parallel is None else Role.TEACHER
    teacher = LaidOut(
        (Role.TEACHER,),
        teacher_shape(plan, facts),
        teacher_parallel(plan),
        world_size_of(plan.cluster),
        f"{owner}.parallel",
        (facts.teacher.origin,),
    )
    return student, teacher


def student_laid_out(plan: Plan, facts: Facts) -> LaidOut:
    return LaidOut(
        (Role.STUDENT,),
        student_shape(plan, facts),
        plan.student.parallel,
        world_size_of(plan.cluster),
        "student.parallel",
        (facts.student.origin,),
    )


def laid_out(
    plan: Plan, facts: Facts, reads: Callable[[ModelShape], object] = lambda shape: None
) -> tuple[LaidOut, ...]:
    """The models on the ranks, in one entry where their axes and what the rule `reads` of a shape
    are the same: one fault is one finding."""
    student, *others = each_model(plan, facts)
    if not others:
        return (student,)
    (teacher,) = others
    if (student.table, reads(student.shape)) != (teacher.table, reads(teacher.shape)):
        return student, teacher
    origins = tuple(dict.fromkeys(student.origins + teacher.origins))
    return (replace(student, roles=student.roles + teacher.roles, origins=origins),)
