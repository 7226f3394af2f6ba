"""Single edits of a plan that could make it fit, and those that do: each is priced first."""

from collections.abc import Iterator
from dataclasses import dataclass

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Device, Facts
from gkdplan.planner.auto_offload import offloaded_to, place_of, places
from gkdplan.planner.checks import availability, layout, schedule, vllm
from gkdplan.planner.checks.degrees import possible_degrees
from gkdplan.planner.checks.schedule import LARGEST_MICRO
from gkdplan.planner.layout import axis_degrees, world_size_of
from gkdplan.planner.models import student_shape
from gkdplan.planner.pricing import price
from gkdplan.runplan.ledger import Ledger
from gkdplan.spec.models import Recompute
from gkdplan.spec.plan import Plan
from gkdplan.spec.section import Section
from gkdplan.units import format_bytes
from gkdplan.vocab import Engine, Verdict

Edits = Iterator[tuple[str, Plan]]

_RULES = (*layout.RULES, *schedule.RULES, *vllm.RULES, availability.feature_is_available)
"""Those that a layout can break."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What to write, the bytes that it takes off the peak of the fullest rank, and that peak.

    `runs` says whether `gkdplan run` takes the edited plan as far as it takes the plan itself.
    """

    description: str
    saved_bytes: int
    peak_bytes: int
    runs: bool

    @property
    def sentence(self) -> str:
        """set `batch.micro` to 2: it saves 3.1 GiB, the peak is 60.2 GiB then."""
        saved = f"it saves {format_bytes(self.saved_bytes)}, " if self.saved_bytes > 0 else ""
        planned = "" if self.runs else " (planned, but not yet run)"
        peak = f"the peak is {format_bytes(self.peak_bytes)} then"
        return f"{self.description}{planned}: {saved}{peak}"


def edits_that_fit(plan: Plan, facts: Facts) -> Iterator[Edit]:
    """Of each kind of edit the smallest that makes the plan fit."""
    peak_bytes = price(plan, facts).ledger.peak_bytes
    not_run, broken = _num_not_run(plan), broken_rules(plan, facts)
    for edits in _kinds_of_edits(plan, facts):
        for description, edited in edits:
            if broken_rules(edited, facts) - broken:
                continue
            ledger = price(edited, facts).ledger
            if fits(ledger, facts.device):
                saved_bytes = peak_bytes - ledger.peak_bytes
                runs = _num_not_run(edited) <= not_run
                yield Edit(description, saved_bytes, ledger.peak_bytes, runs)
                break


def fits(ledger: Ledger, device: Device) -> bool:
    """Whether both the device and the host have room."""
    has_host_memory = ledger.host_bytes_per_node <= device.host_memory_bytes_per_node
    return has_host_memory and ledger.verdict is not Verdict.OVER


def broken_rules(plan: Plan, facts: Facts) -> set[str]:
    """Codes of the errors among the rules that a layout can break."""
    return {
        found.code
        for rule in _RULES
        for found in rule(plan, facts)
        if found.severity is Severity.ERROR
    }


def _num_not_run(plan: Plan) -> int:
    return sum(1 for _ in availability.value_is_run(plan))


def _kinds_of_edits(plan: Plan, facts: Facts) -> Iterator[Edits]:
    yield _smaller_micro_batches(plan)
    if plan.teacher.server is None:
        yield _other_offload(plan, "teacher")
    yield _other_offload(plan, "optimizer")
    yield _other_offload(plan, "student")
    yield _distributed_optimizer(plan)
    yield _deeper_sleep(plan)
    yield _smaller_share(plan)
    yield _larger_degrees(plan, facts, "tensor")
    yield _larger_degrees(plan, facts, "pipeline")
    yield _recompute(plan, facts)
    yield _shorter_prompts(plan)


def _smaller_micro_batches(plan: Plan) -> Edits:
    """The largest first, of the same global batch."""
    data = axis_degrees(plan.student.parallel, world_size_of(plan.cluster)).data
    for micro in range(min(plan.batch.micro - 1, LARGEST_MICRO), 0, -1):
        if plan.batch.global_ % (micro * data) == 0:
            batch = plan.batch.model_copy(update={"micro": micro})
            yield f"set `batch.micro` to {micro}", plan.model_copy(update={"batch": batch})


def _other_offload(plan: Plan, table: str) -> Edits:
    """To where it is not; "auto" has tried all."""
    section = getattr(plan, table)
    if section.offload == "auto":
        return
    for place in places(plan, table):
        if place == place_of(plan, table):
            continue
        moved = offloaded_to(place, section)
        offload = f'set `{table}.offload` to "{moved.offload}"'
        edited = plan.model_copy(update={table: moved})
        yield f"{offload}{_beside_offload(table, section, moved)}", edited


def _beside_offload(table: str, old: Section, new: Section) -> str:
    """What else is written with another `offload`."""
    changes = ""
    for key in ("prefetch", "stream"):
        before, after = getattr(old, key, None), getattr(new, key, None)
        if before != after:
            write = f"`{table}.{key}` to true" if after else f"remove `{table}.{key}`"
            changes += f" and {write}"
    return changes


def _distributed_optimizer(plan: Plan) -> Edits:
    if not plan.optimizer.distributed:
        optimizer = plan.optimizer.model_copy(update={"distributed": True})
        edited = plan.model_copy(update={"optimizer": optimizer})
        yield "set `optimizer.distributed` to true", edited


def _deeper_sleep(plan: Plan) -> Edits:
    if plan.generation.engine is Engine.VLLM:
        for level in range(plan.generation.sleep_level + 1, 3):
            generation = plan.generation.model_copy(update={"sleep_level": level})
            edited = plan.model_copy(update={"generation": generation})
            yield f"set `generation.sleep_level` to {level}", edited


def _smaller_share(plan: Plan) -> Edits:
    """By twentieths of the device, the largest first."""
    if plan.generation.engine is Engine.VLLM:
        for twentieths in range(19, 0, -1):
            share = twentieths / 20
            if share < plan.generation.gpu_memory_utilization:
                generation = plan.generation.model_copy(update={"gpu_memory_utilization": share})
                edited = plan.model_copy(update={"generation": generation})
                yield f"set `generation.gpu_memory_utilization` to {share:g}", edited


def _larger_degrees(plan: Plan, facts: Facts, axis: str) -> Edits:
    """The smallest first, of both models."""
    if plan.teacher.parallel is not None:
        return
    for degree in possible_degrees(plan, facts, "student.parallel", axis):
        if degree > getattr(plan.student.parallel, axis):
            parallel = plan.student.parallel.model_copy(update={axis: degree})
            student = plan.student.model_copy(update={"parallel": parallel})
            edited = plan.model_copy(update={"student": student})
            yield f"set `student.parallel.{axis}` to {degree}", edited


def _recompute(plan: Plan, facts: Facts) -> Edits:
    """Fewest layers first: by eighths of a chunk's layers, at last all of them."""
    parallel = plan.student.parallel
    chunk = student_shape(plan, facts).num_layers // parallel.pipeline // parallel.virtual_pipeline
    for num_layers in dict.fromkeys(chunk * eighths // 8 for eighths in range(1, 9)):
        if num_layers:
            block = Recompute(granularity="full", method="block", num_layers=num_layers)
            student = plan.student.model_copy(update={"recompute": block})
            edited = plan.model_copy(update={"student": student})
            described = (
                'set `student.recompute` to granularity "full", method "block", '
                f"num_layers {num_layers}"
            )
            yield described, edited


def _shorter_prompts(plan: Plan) -> Edits:
    """By eighths, the longest first."""
    lengths = (plan.data.max_length * eighths // 8 for eighths in range(7, 0, -1))
    for length in filter(None, lengths):
        data = plan.data.model_copy(update={"max_length": length})
        yield f"set `data.max_length` to {length}", plan.model_copy(update={"data": data})
