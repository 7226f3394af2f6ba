"""The candidates: meshes of both models, sizes of a micro-batch, recompute and offload."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice

from gkdplan.facts.model import Facts
from gkdplan.planner.auto_offload import STREAM, offloaded_to, place_of, places
from gkdplan.planner.layout import world_size_of
from gkdplan.planner.models import student_shape, teacher_shape
from gkdplan.shape import ModelShape
from gkdplan.spec.models import Parallel, Recompute
from gkdplan.spec.plan import Plan

LARGEST = 4096
"""No axis has a larger degree, and no micro-batch more rows."""
LEAST_TOKENS = 256
"""Of a row on a context rank; fewer do not hide the ring."""


@dataclass(frozen=True, slots=True)
class Saving:
    """What a layout does for memory at the cost of time; offloads as `auto_offload.places` names
    them, the student's None where the plan's own stays."""

    recompute: Recompute
    teacher: str
    optimizer: str
    student: str | None = None

    @property
    def offloaded(self) -> tuple[str, ...]:
        places = {"teacher": self.teacher, "optimizer": self.optimizer, "student": self.student}
        return tuple(name for name, place in places.items() if place == "cpu")

    def applied_to(self, plan: Plan) -> Plan:
        student = plan.student.model_copy(update={"recompute": self.recompute})
        tables = {
            "student": student if self.student is None else offloaded_to(self.student, student),
            "teacher": offloaded_to(self.teacher, plan.teacher),
            "optimizer": offloaded_to(self.optimizer, plan.optimizer),
        }
        return plan.model_copy(update=tables)


def meshes(plan: Plan, facts: Facts) -> Iterator[Plan]:
    """The plan with its own mesh, then with every other whose axes divide the ranks."""
    own = plan.student.parallel
    others = (p for p in _parallels(plan, student_shape(plan, facts)) if p != own)
    for student in chain([own], others):
        for teacher in _distinct(_teachers(plan, facts, student)):
            if teacher != student:
                yield _with_mesh(plan, student, teacher)


def micro_sizes(plan: Plan) -> tuple[int, ...]:
    """Rows that divide the share of a data rank, rising; none where there is no such share."""
    parallel = plan.student.parallel
    ranks = parallel.tensor * parallel.context * parallel.pipeline
    data = max(1, world_size_of(plan.cluster) // ranks)
    rows, remainder = divmod(plan.batch.global_, data)
    return () if remainder else divisors(rows)


def savings(plan: Plan, num_layers: int, *, all_offloads: bool = False) -> tuple[Saving, ...]:
    """Every recompute with every offload, the cheapest first: of teacher and optimizer; or of all
    that can leave the device. Gradients that do cost no time, and then they always do."""
    of_teacher = places(plan, "teacher")
    if plan.teacher.server is not None:
        of_teacher = ("none",)
    elif not all_offloads and place_of(plan, "teacher") != STREAM:
        of_teacher = ("none", "cpu")
    return tuple(
        Saving(recompute, teacher, optimizer, student)
        for recompute in _recomputes(plan, num_layers)
        for student in (("grads", "cpu") if all_offloads else (None,))
        for optimizer in places(plan, "optimizer")
        for teacher in of_teacher
    )


def with_micro(plan: Plan, micro: int) -> Plan:
    return plan.model_copy(update={"batch": plan.batch.model_copy(update={"micro": micro})})


@cache
def divisors(number: int) -> tuple[int, ...]:
    """Rising, up to `LARGEST`."""
    return tuple(d for d in range(1, min(number, LARGEST) + 1) if number % d == 0)


def _recomputes(plan: Plan, num_layers: int) -> tuple[Recompute, ...]:
    """Nothing, the MLP, a quarter, half and three quarters of each chunk's layers, every layer by
    itself and in pairs; and what the plan says. Larger units keep more than they spare: a layer
    within a unit keeps many times its input."""
    parallel, own = plan.student.parallel, plan.student.recompute
    of_chunk = num_layers // (parallel.pipeline * parallel.virtual_pipeline)
    blocks = sorted({of_chunk // 4, of_chunk // 2, 3 * of_chunk // 4} - {0})
    units = (1, 2) if of_chunk > 2 and of_chunk % 2 == 0 else (1,)
    offered = (
        Recompute(),
        Recompute(granularity="selective", modules=("mlp",)),
        *(Recompute(granularity="full", method="block", num_layers=n) for n in blocks),
        *(Recompute(granularity="full", method="uniform", num_layers=n) for n in units),
    )
    return offered if own in offered else (*offered, own)


def _with_mesh(plan: Plan, student: Parallel, teacher: Parallel | None) -> Plan:
    return plan.model_copy(
        update={
            "student": plan.student.model_copy(update={"parallel": student}),
            "teacher": plan.teacher.model_copy(update={"parallel": teacher}),
        }
    )


def _teachers(plan: Plan, facts: Facts, student: Parallel) -> Iterator[Parallel | None]:
    """The student's mesh, also with stages of its own depth, the plan's, and tensor and context
    axes alone, within a node or with the student's context degree. The student's average lies where
    the student does."""
    yield None
    if plan.teacher.server is not None or plan.teacher.self_ == "ema":
        return
    if student.pipeline > 1:
        no_stages = {"virtual_pipeline": 1, "first_stage_layers": None, "last_stage_layers": None}
        for stages in islice(_stages(teacher_shape(plan, facts).num_layers, student.pipeline), 1):
            yield student.model_copy(update={**no_stages, "stage_layers": None, **stages})
    if plan.teacher.parallel is not None:
        yield plan.teacher.parallel
    world_size, node_size = world_size_of(plan.cluster), plan.cluster.devices_per_node
    for tensor in _up_to(min(node_size, facts.teacher.shape.num_attention_heads), world_size):
        within_node = _up_to(min(_most_context(plan), node_size // tensor), world_size // tensor)
        for context in sorted({*within_node, student.context}):
            yield Parallel(tensor=tensor, sequence=_sequence(plan, tensor), context=context)


def _distinct(parallels: Iterator[Parallel | None]) -> Iterator[Parallel | None]:
    seen: list[Parallel | None] = []
    for parallel in parallels:
        if parallel not in seen:
            seen.append(parallel)
            yield parallel


def _parallels(plan: Plan, shape: ModelShape) -> Iterator[Parallel]:
    world_size = world_size_of(plan.cluster)
    for pipeline in _up_to(shape.num_layers, world_size):
        for context in _up_to(_most_context(plan), world_size // pipeline):
            for tensor in _up_to(shape.num_attention_heads, world_size // pipeline // context):
                for expert, expert_tensor in _experts(shape, tensor, world_size // pipeline):
                    for stages in _stages(shape.num_layers, pipeline):
                        mesh = Parallel(
                            tensor=tensor,
                            sequence=_sequence(plan, tensor),
                            pipeline=pipeline,
                            context=context,
                            expert=expert,
                            expert_tensor=expert_tensor,
                        )
                        yield mesh.model_copy(update=stages)


def _most_context(plan: Plan) -> int:
    num_tokens = plan.data.max_length + plan.generation.max_completion_length
    return max(1, num_tokens // LEAST_TOKENS)


def _sequence(plan: Plan, tensor: int) -> bool | None:
    """As the plan's student has it, wherever there is a tensor axis."""
    return plan.student.parallel.sequence if tensor > 1 else None


def _up_to(largest: int, number: int) -> Iterator[int]:
    return (divisor for divisor in divisors(number) if divisor <= largest)


def _experts(shape: ModelShape, tensor: int, ranks: int) -> Iterator[tuple[int, int]]:
    """Expert degrees that divide the experts, each expert whole or divided as the rest is."""
    if shape.moe is None:
        yield 1, 1
        return
    for expert in divisors(shape.moe.num_experts):
        for expert_tensor in sorted({1, tensor}):
            if ranks % (expert * expert_tensor) == 0:
                yield expert, expert_tensor


def _stages(num_layers: int, pipeline: int) -> Iterator[dict[str, int]]:
    """Equal stages in chunks; where the layers do not divide, a shorter last stage, which has the
    head and the loss too."""
    if num_layers % pipeline:
        longer = -(-num_layers // pipeline)
        last = num_layers - (pipeline - 1) * longer
        if last > 0:
            yield {"last_stage_layers": last}
        return
    chunks = divisors(num_layers // pipeline) if pipeline > 1 else (1,)
    for num_chunks in chunks:
        yield {"virtual_pipeline": num_chunks}
