"""What the vocabulary can say and this version cannot do yet: refused by name, never ignored."""

from collections.abc import Callable, Iterator

from gkdplan import __version__
from gkdplan.diagnostics import Severity
from gkdplan.planner.checks.rule import Finding, plan_rule
from gkdplan.planner.layout import axis_degrees, teacher_parallel, world_size_of
from gkdplan.spec.plan import Parallel, Plan
from gkdplan.vocab import Engine

Value = Callable[[Plan], object]

_AXES = (
    "pipeline",
    "virtual_pipeline",
    "first_stage_layers",
    "last_stage_layers",
    "context",
    "expert",
    "expert_tensor",
)


def _engine_tensor(plan: Plan) -> int | None:
    """The engine's own tensor degree; it may only be the student's, whose weights it shares."""
    degree = plan.generation.tensor
    is_own = plan.generation.engine is not Engine.NONE and degree != plan.student.parallel.tensor
    return degree if is_own else None


_AVAILABLE: dict[str, tuple[Value, tuple[object, ...]]] = {
    "student.tuning": (lambda plan: plan.student.tuning, ("full",)),
    "student.recompute.granularity": (lambda plan: plan.student.recompute.granularity, ("none",)),
    "teacher.server": (lambda plan: plan.teacher.server, (None,)),
    "distill.payload": (lambda plan: plan.distill.payload, ("auto", "hidden", "logits")),
    "distill.sft_alpha": (lambda plan: plan.distill.sft_alpha, (0.0,)),
    "generation.engine": (lambda plan: plan.generation.engine, (Engine.MEGATRON, Engine.NONE)),
    "generation.mode": (lambda plan: plan.generation.mode, ("colocate",)),
    "generation.tensor": (_engine_tensor, (None,)),
    "generation.sleep_level": (lambda plan: plan.generation.sleep_level, (0,)),
    "optimizer.offload": (lambda plan: plan.optimizer.offload, ("none",)),
}
"""Key -> its value in a plan, and the values that this version can run."""


@plan_rule("GK590")
def feature_is_available(plan: Plan) -> Iterator[Finding]:
    """Every value that this version would have to ignore."""
    yield from _unavailable_axes("student.parallel", plan.student.parallel)
    if plan.teacher.parallel is not None:
        yield from _unavailable_axes("teacher.parallel", plan.teacher.parallel)
        yield from _other_teacher_layout(plan)
    for path, (value_of, available) in _AVAILABLE.items():
        value = value_of(plan)
        if value not in available:
            yield _not_yet(path, value)
    for index, logger in enumerate(plan.run.loggers):
        if logger != "tensorboard":
            yield _not_yet(f"run.loggers[{index}]", logger)


@plan_rule("GK591", Severity.WARNING)
def one_node_is_run(plan: Plan) -> Iterator[Finding]:
    """Several nodes are planned, and not yet started."""
    if plan.cluster.num_nodes > 1:
        yield Finding(
            f"`gkdplan run` starts one node only in gkdplan {__version__}: this plan has "
            f"{plan.cluster.num_nodes:,}",
            "cluster.num_nodes",
            label="planned, but not yet run",
        )


RULES = (feature_is_available, one_node_is_run)


def _unavailable_axes(table: str, parallel: Parallel) -> Iterator[Finding]:
    for axis in _AXES:
        value = getattr(parallel, axis)
        if value != Parallel.model_fields[axis].default:
            yield _not_yet(f"{table}.{axis}", value)


def _other_teacher_layout(plan: Plan) -> Iterator[Finding]:
    world_size = world_size_of(plan.cluster)
    student = axis_degrees(plan.student.parallel, world_size)
    teacher = axis_degrees(teacher_parallel(plan), world_size)
    if (student.tensor, student.sequence) != (teacher.tensor, teacher.sequence):
        yield Finding(
            f"a teacher with a layout of its own is not yet available in gkdplan {__version__}",
            "teacher.parallel",
            label=f"the student has tensor degree {student.tensor}"
            + (" and sequence parallelism" if student.sequence else ""),
            help=("remove `teacher.parallel`: left out, it is the student's",),
        )


def _not_yet(path: str, value: object) -> Finding:
    return Finding(
        f"`{path} = {_toml(value)}` is not yet available in gkdplan {__version__}",
        path,
        label="not yet available",
        help=_instead(path),
    )


def _instead(path: str) -> tuple[str, ...]:
    """The values of the key that can run, or its removal."""
    _, available = _AVAILABLE.get(path, (None, (None,)))
    values = [_toml(value) for value in available if value is not None]
    return (f"set it to {' or '.join(values)}",) if values else ("remove it",)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, str):
        return f'"{value}"'
    return "..."
