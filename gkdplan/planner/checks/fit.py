"""Rules of memory, with the edits that make a plan fit: each one is priced before it is named."""

from collections.abc import Callable, Iterator

from gkdplan.diagnostics import Diagnostic, error, warning
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.layout import valid_tensor_degrees
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.layout import world_size_of
from gkdplan.planner.pricing import price
from gkdplan.runplan.model import Ledger
from gkdplan.spec.plan import Plan
from gkdplan.units import format_bytes, parse_bytes
from gkdplan.vocab import Verdict

Edit = Callable[[Plan, Facts], Iterator[tuple[str, Plan]]]


@rule("GK304")
def memory_limit_is_within_the_device(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A GPU cannot give more than it has; the device table's memory of a cpu is an assumption."""
    limit, device = plan.cluster.memory_limit, facts.device
    if limit is None or device.backend == "gloo":
        return
    if parse_bytes(limit) > device.memory_bytes:
        yield Finding(
            f"a limit of {limit} is above the memory of {device.key}",
            "cluster.memory_limit",
            label=f"the device has {format_bytes(device.memory_bytes)}",
            help=("remove it: left out, all of the device's memory is the budget",),
        )


RULES = (memory_limit_is_within_the_device,)


def check_fit(plan: Plan, facts: Facts, ledger: Ledger) -> tuple[Diagnostic, ...]:
    """The findings about memory: the device's (GK301, GK302) and the host's (GK303)."""
    return tuple(_device(plan, facts, ledger)) + tuple(_host(facts, ledger))


def _device(plan: Plan, facts: Facts, ledger: Ledger) -> Iterator[Diagnostic]:
    peak, budget = format_bytes(ledger.peak_bytes), format_bytes(ledger.budget_bytes)
    path = "cluster.device" if plan.cluster.memory_limit is None else "cluster.memory_limit"
    if ledger.verdict is Verdict.OVER:
        yield error(
            "GK301",
            f"the plan does not fit: it needs {peak} of {budget} in {ledger.peak_phase}",
            path,
            label=f"{format_bytes(ledger.peak_bytes - ledger.budget_bytes)} too little"
            if ledger.peak_bytes > ledger.budget_bytes
            else "too little is left for the allocator",
            notes=_largest_rows(ledger),
            help=tuple(edits_that_fit(plan, facts)) or ("no single edit makes it fit",),
        )
    if ledger.verdict is Verdict.TIGHT:
        yield warning(
            "GK302",
            f"the plan is tight: it needs {peak} of {budget} in {ledger.peak_phase}",
            path,
            label="an allocator may fragment what is left",
            notes=_largest_rows(ledger),
        )


def _host(facts: Facts, ledger: Ledger) -> Iterator[Diagnostic]:
    available = facts.device.host_memory_bytes_per_node
    if ledger.host_bytes_per_node > available:
        yield error(
            "GK303",
            f"a node has {format_bytes(available)} of host memory, and the offloaded teacher takes "
            f"{format_bytes(ledger.host_bytes_per_node)}",
            "teacher.offload",
            label="every rank keeps its shard in pinned memory",
            notes=(f"host memory of a node of {facts.device.key}, from the device table",),
            help=('set `teacher.offload` to "none"',),
        )


def edits_that_fit(plan: Plan, facts: Facts) -> Iterator[str]:
    """For each kind of edit the smallest that makes the plan fit, with the peak that it leaves."""
    for edits in (_micro_batches, _tensor_degrees, _teacher_offload, _distributed, _lengths):
        for description, edited in edits(plan, facts):
            ledger = price(edited, facts).ledger
            if ledger.verdict is not Verdict.OVER:
                yield f"{description}: {format_bytes(ledger.peak_bytes)}"
                break


def _largest_rows(ledger: Ledger) -> tuple[str, ...]:
    """The three largest rows of the peak."""
    rows = ledger.classes[0].phases[ledger.peak_phase].rows
    largest = sorted(rows.items(), key=lambda row: -row[1])[:3]
    return tuple(f"{name}: {format_bytes(num_bytes)}" for name, num_bytes in largest)


def _micro_batches(plan: Plan, facts: Facts) -> Iterator[tuple[str, Plan]]:
    """Smaller micro-batches, the largest first, of the same global batch."""
    data = world_size_of(plan.cluster) // plan.student.parallel.tensor
    for micro in range(plan.batch.micro - 1, 0, -1):
        if plan.batch.global_ % (micro * data) == 0:
            batch = plan.batch.model_copy(update={"micro": micro})
            yield f"set `batch.micro` to {micro}", plan.model_copy(update={"batch": batch})


def _tensor_degrees(plan: Plan, facts: Facts) -> Iterator[tuple[str, Plan]]:
    """Larger tensor degrees, the smallest first, where the batch still divides."""
    for tensor in valid_tensor_degrees(plan, facts):
        data = world_size_of(plan.cluster) // tensor
        divides = plan.batch.global_ % (plan.batch.micro * data) == 0
        if tensor > plan.student.parallel.tensor and divides:
            parallel = plan.student.parallel.model_copy(update={"tensor": tensor})
            student = plan.student.model_copy(update={"parallel": parallel})
            teacher = plan.teacher.model_copy(update={"parallel": None})
            edited = plan.model_copy(update={"student": student, "teacher": teacher})
            yield f"set `student.parallel.tensor` to {tensor}", edited


def _teacher_offload(plan: Plan, facts: Facts) -> Iterator[tuple[str, Plan]]:
    if plan.teacher.offload == "none":
        teacher = plan.teacher.model_copy(update={"offload": "cpu"})
        yield 'set `teacher.offload` to "cpu"', plan.model_copy(update={"teacher": teacher})


def _distributed(plan: Plan, facts: Facts) -> Iterator[tuple[str, Plan]]:
    if not plan.optimizer.distributed:
        optimizer = plan.optimizer.model_copy(update={"distributed": True})
        yield (
            "set `optimizer.distributed` to true",
            plan.model_copy(update={"optimizer": optimizer}),
        )


def _lengths(plan: Plan, facts: Facts) -> Iterator[tuple[str, Plan]]:
    """Prompts halved again and again."""
    length = plan.data.max_length // 2
    while length:
        data = plan.data.model_copy(update={"max_length": length})
        yield f"set `data.max_length` to {length:,}", plan.model_copy(update={"data": data})
        length //= 2
