"""What the vocabulary can say and this version cannot do yet: named, never ignored."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from gkdplan import __version__
from gkdplan.diagnostics import Severity
from gkdplan.planner.checks.rule import Finding, plan_rule
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Engine, Kernels, Role

Value = Callable[[Plan], object]


def _engine_tensor(plan: Plan) -> int | None:
    """Megatron's own tensor degree; it may only be the student's, whose weights it shares."""
    degree = plan.generation.tensor
    is_own = plan.generation.engine is Engine.MEGATRON and degree != plan.student.parallel.tensor
    return degree if is_own else None


_AVAILABLE: dict[str, tuple[Value, tuple[object, ...]]] = {
    "generation.tensor": (_engine_tensor, (None,)),
}
"""Key -> its value in a plan, and the values that this version can plan."""


@plan_rule("GK590")
def feature_is_available(plan: Plan) -> Iterator[Finding]:
    """Every value that this version would have to ignore."""
    for path, (value_of, available) in _AVAILABLE.items():
        value = value_of(plan)
        if value not in available:
            yield _not_yet(path, value)
    if plan.teacher.self_ == "ema" and plan.student.tuning == "lora":
        yield replace(
            _not_yet("teacher.self", "ema"),
            notes=("the average would be of adapters, beside the base that they share",),
            help=(
                'set `teacher.self` to "initial", which is the frozen base, or `student.tuning` to '
                '"full"',
            ),
        )


@plan_rule("GK591", Severity.WARNING)
def value_is_run(plan: Plan) -> Iterator[Finding]:
    """Every value that is planned and priced, and that `gkdplan run` refuses."""
    if plan.cluster.kernels is Kernels.TORCH and plan.cluster.device != "cpu":
        for role in Role:
            parallel = getattr(plan, role).parallel
            if parallel is not None and parallel.context > 1:
                yield not_yet_run(f"{role}.parallel.context", parallel.context)


RULES = (feature_is_available, value_is_run)


def not_yet_run(path: str, value: object) -> Finding:
    """A value that is planned and priced, and that `gkdplan run` refuses."""
    return Finding(
        f"`gkdplan run` does not yet run `{path} = {_toml(value)}` in gkdplan {__version__}",
        path,
        label="planned, but not yet run",
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
