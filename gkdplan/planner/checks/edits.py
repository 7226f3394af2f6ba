"""Single edits of a plan that could make it fit, and those that do: each is priced first."""

from collections.abc import Iterator

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Device, Facts
from gkdplan.planner.checks import layout
from gkdplan.planner.checks.degrees import possible_degrees
from gkdplan.planner.checks.schedule import LARGEST_MICRO
from gkdplan.planner.layout import axis_degrees, world_size_of
from gkdplan.planner.pricing import price
from gkdplan.runplan.model import Ledger
from gkdplan.spec.plan import Plan
from gkdplan.units import format_bytes
from gkdplan.vocab import Verdict

Edits = Iterator[tuple[str, Plan]]


def edits_that_fit(plan: Plan, facts: Facts) -> Iterator[str]:
    """Of each kind of edit the smallest that makes the plan fit, with the peak that it leaves."""
    for edits in _kinds_of_edits(plan, facts):
        for description, edited in edits:
            if _breaks_a_rule(edited, facts):
                continue
            ledger = price(edited, facts).ledger
            if fits(ledger, facts.device):
                yield f"{description}: the peak is {format_bytes(ledger.peak_bytes)} then"
                break


def fits(ledger: Ledger, device: Device) -> bool:
    """Whether both the device and the host have room."""
    has_host_memory = ledger.host_bytes_per_node <= device.host_memory_bytes_per_node
    return has_host_memory and ledger.verdict is not Verdict.OVER


def _breaks_a_rule(plan: Plan, facts: Facts) -> bool:
    return any(
        found.severity is Severity.ERROR for rule in layout.RULES for found in rule(plan, facts)
    )


def _kinds_of_edits(plan: Plan, facts: Facts) -> Iterator[Edits]:
    yield _smaller_micro_batches(plan)
    yield _other_offload(plan, "teacher")
    yield _other_offload(plan, "optimizer")
    yield _distributed_optimizer(plan)
    yield _larger_tensor_degrees(plan, facts)
    yield _shorter_prompts(plan)


def _smaller_micro_batches(plan: Plan) -> Edits:
    """The largest first, of the same global batch."""
    data = axis_degrees(plan.student.parallel, world_size_of(plan.cluster)).data
    for micro in range(min(plan.batch.micro - 1, LARGEST_MICRO), 0, -1):
        if plan.batch.global_ % (micro * data) == 0:
            batch = plan.batch.model_copy(update={"micro": micro})
            yield f"set `batch.micro` to {micro}", plan.model_copy(update={"batch": batch})


def _other_offload(plan: Plan, table: str) -> Edits:
    """What is "auto" already is as good as it can be."""
    section = getattr(plan, table)
    if section.offload != "auto":
        offload = "cpu" if section.offload == "none" else "none"
        edited = plan.model_copy(update={table: section.model_copy(update={"offload": offload})})
        yield f'set `{table}.offload` to "{offload}"', edited


def _distributed_optimizer(plan: Plan) -> Edits:
    if not plan.optimizer.distributed:
        optimizer = plan.optimizer.model_copy(update={"distributed": True})
        edited = plan.model_copy(update={"optimizer": optimizer})
        yield "set `optimizer.distributed` to true", edited


def _larger_tensor_degrees(plan: Plan, facts: Facts) -> Edits:
    """The smallest first, where the global batch still divides."""
    if plan.teacher.parallel is not None:
        return
    for tensor in possible_degrees(plan, facts, "student.parallel", "tensor"):
        parallel = plan.student.parallel.model_copy(update={"tensor": tensor})
        data = axis_degrees(parallel, world_size_of(plan.cluster)).data
        divides = plan.batch.global_ % (plan.batch.micro * data) == 0
        if tensor > plan.student.parallel.tensor and divides:
            student = plan.student.model_copy(update={"parallel": parallel})
            edited = plan.model_copy(update={"student": student})
            yield f"set `student.parallel.tensor` to {tensor}", edited


def _shorter_prompts(plan: Plan) -> Edits:
    """By eighths, the longest first."""
    lengths = (plan.data.max_length * eighths // 8 for eighths in range(7, 0, -1))
    for length in filter(None, lengths):
        data = plan.data.model_copy(update={"max_length": length})
        yield f"set `data.max_length` to {length}", plan.model_copy(update={"data": data})
