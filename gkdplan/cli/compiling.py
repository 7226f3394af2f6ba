"""A plan file -> what the commands show: findings with their places, and the run plan."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from gkdplan import __version__
from gkdplan.diagnostics import Diagnostic, Severity, Span, UserError, error
from gkdplan.facts.model import Facts, TeacherColumn
from gkdplan.runplan.model import RunPlan
from gkdplan.spec.load import load_plan
from gkdplan.spec.plan import Plan
from gkdplan.spec.source import Source
from gkdplan.vocab import Engine

DEFAULT_PLAN = "plan.toml"
MAX_PLAN_BYTES = 2**20
TOOL = f"gkdplan {__version__}"


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of a plan file; `run_plan` may be there although there are errors, and `facts`
    although there is no run plan."""

    plan: Plan | None
    run_plan: RunPlan | None
    diagnostics: tuple[Diagnostic, ...]
    source: Source | None = None
    facts: Facts | None = None

    @property
    def ok(self) -> bool:
        return not any(finding.severity is Severity.ERROR for finding in self.diagnostics)

    def decided(self) -> RunPlan:
        """The run plan, though it may not fit; raises UserError with all findings without one."""
        if self.run_plan is None:
            raise UserError(*self.diagnostics)
        return self.run_plan

    def require(self) -> RunPlan:
        """The run plan of a plan without errors; raises UserError with all findings otherwise."""
        if not self.ok:
            raise UserError(*self.diagnostics)
        return self.decided()

    def errors_beside(self, *families: str) -> tuple[Diagnostic, ...]:
        """The errors whose codes begin otherwise than `families`."""
        return tuple(
            finding
            for finding in self.diagnostics
            if finding.severity is Severity.ERROR and not finding.code.startswith(families)
        )

    def placed(self, findings: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
        """Findings about keys, each at the place of its key in the plan."""
        return tuple(
            finding.at(self.source.locate(finding.path))
            if self.source and finding.path and not finding.span
            else finding
            for finding in findings
        )

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Findings that are raised in this block get their places too."""
        try:
            yield
        except UserError as refusal:
            raise UserError(*self.placed(refusal.diagnostics)) from refusal


def compile_file(path: str | None, change: Callable[[Plan], Plan] = lambda plan: plan) -> Compiled:
    """Read, load, look up and compile; without a path, plan.toml of the working directory.

    What is looked up and compiled is the plan after `change`.
    """
    path = path or DEFAULT_PLAN
    text = _read(path)
    if isinstance(text, Diagnostic):
        return Compiled(None, None, (text,))
    loaded = load_plan(path, text)
    if loaded.plan is None:
        return Compiled(None, None, loaded.diagnostics)
    plan = change(loaded.plan)
    facts, run_plan, findings = _compile(plan)
    compiled = Compiled(plan, run_plan, findings, loaded.source, facts)
    placed = compiled.placed(findings)
    return replace(compiled, diagnostics=tuple(sorted(placed, key=_position)))


def compile_for_device(compiled: Compiled, device: str) -> Compiled:
    """A compiled plan once more, with another `cluster.device` and the kernels and the backend of
    the loss that it has without being asked; findings have no places."""
    assert compiled.plan is not None
    cluster = compiled.plan.cluster.model_copy(update={"device": device, "kernels": None})
    distill = compiled.plan.distill.model_copy(update={"loss_backend": None})
    changes = {"cluster": cluster, "distill": distill}
    return compile_loaded(compiled.plan.model_copy(update=changes))


def compile_without_vllm(compiled: Compiled) -> Compiled:
    """A compiled plan once more, with Megatron's own modules in the place of vllm on the ranks;
    findings have no places."""
    assert compiled.plan is not None
    changes = {"engine": Engine.MEGATRON, "tensor": None, "sleep_level": 0}
    generation = compiled.plan.generation.model_copy(update=changes)
    return compile_loaded(compiled.plan.model_copy(update={"generation": generation}))


def compile_loaded(plan: Plan) -> Compiled:
    """A plan that no file holds; findings have no places."""
    facts, run_plan, findings = _compile(plan)
    return Compiled(plan, run_plan, findings, facts=facts)


@contextmanager
def blamed(run_plan: RunPlan) -> Iterator[None]:
    """A bug that comes out of this block names the plan's fingerprint."""
    try:
        yield
    except Exception as bug:
        bug.add_note(f"the plan's fingerprint is {run_plan.fingerprint}")
        raise


def _compile(plan: Plan) -> tuple[Facts | None, RunPlan | None, tuple[Diagnostic, ...]]:
    from gkdplan.facts.lookup import look_up
    from gkdplan.facts.model import ModelRef
    from gkdplan.planner.checks.declaration import check_plan_alone
    from gkdplan.planner.compiler import compile_plan
    from gkdplan.planner.models import named_teacher
    from gkdplan.planner.pictures import picture_limits
    from gkdplan.vocab import Role

    facts, seen = look_up(
        student=ModelRef(Role.STUDENT, plan.student.model, plan.student.revision),
        teacher=ModelRef(Role.TEACHER, *named_teacher(plan)),
        device=plan.cluster.device,
        train=plan.data.train,
        eval=plan.data.eval,
        samples=plan.teacher.samples,
        column=_teacher_column(plan),
        limits=picture_limits(plan),
        max_bad_rows=plan.data.max_bad_rows,
    )
    if facts is None:
        return None, None, seen + check_plan_alone(plan)
    compilation = compile_plan(plan, facts, TOOL)
    return facts, compilation.run_plan, seen + compilation.diagnostics


def _teacher_column(plan: Plan) -> TeacherColumn | None:
    """Where there are several teachers."""
    server = plan.teacher.server
    if server is None or server.column is None:
        return None
    return TeacherColumn(server.column, tuple(server.urls or ()))


def _position(finding: Diagnostic) -> tuple[int, int]:
    return (finding.span.line, finding.span.column) if finding.span else (0, 0)


def _read(path: str) -> str | Diagnostic:
    """The text of a plan, or GK005."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_PLAN_BYTES + 1)
    except OSError as failure:
        reason = (failure.strerror or str(failure)).lower()
        return error("GK005", f"`{path}` cannot be read: {reason}", help=tuple(_nearby(path)))
    except ValueError:
        return error("GK005", f"{path!r} is not a file name")
    if len(data) > MAX_PLAN_BYTES:
        return error("GK005", f"`{path}` is larger than any plan: more than 1 MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        before = data[: failure.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode(errors="replace")) + 1
        return error(
            "GK005",
            f"`{path}` is not UTF-8",
            label=f"byte {data[failure.start]:#04x} begins no character",
            help=("save the file as UTF-8",),
        ).at(Span(path, line, column, 1))


def _nearby(path: str) -> Iterator[str]:
    """Plans that could be meant."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    found = sorted(glob.glob(os.path.join(glob.escape(folder), "*.toml")))
    found += sorted(glob.glob(os.path.join("plans", "*.toml"))) if not folder else []
    plans = [name for name in found if os.path.basename(name) != "pyproject.toml"]
    if plans:
        yield f"plans nearby: {', '.join(f'`{name}`' for name in plans[:5])}"
    elif path == DEFAULT_PLAN:
        yield "name a plan: `gkdplan check PLAN`"
