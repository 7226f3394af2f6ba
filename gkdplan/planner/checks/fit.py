"""Rules of memory: whether the device and the host hold what the ledger counts."""

from collections.abc import Iterator, Sequence

from gkdplan.diagnostics import Diagnostic, error, note, warning
from gkdplan.facts.model import Facts
from gkdplan.planner.auto_offload import OFFLOADABLE, cheapest
from gkdplan.planner.checks.edits import edits_that_fit
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.sources import effective_mix
from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.schedule import OffloadChoice
from gkdplan.runplan.steps import Draw
from gkdplan.spec.plan import Plan
from gkdplan.units import format_bytes, format_seconds, parse_bytes
from gkdplan.vocab import Source, Verdict


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


@rule("GK308")
def a_prefetch_has_a_phase_to_begin_in(plan: Plan, _: Facts) -> Iterator[Finding]:
    """Only the student's samples are drawn before the teacher is on the device."""
    if not plan.teacher.prefetch or plan.teacher.offload == "none":
        return
    shares = share_of_sources(Draw(plan.run.seed, *effective_mix(plan)))
    samples = shares[Source.TEACHER] > 0
    if shares[Source.STUDENT] > 0 and not samples:
        return
    first = "samples" if samples else "is asked"
    yield Finding(
        "`teacher.prefetch = true`, but nothing runs before the teacher in a step",
        "teacher.prefetch",
        label=f"the teacher {first} first",
        help=("remove it: the teacher comes when it is needed",),
    )


_VERBS = {Verdict.FITS: "fits", Verdict.TIGHT: "is tight"}

RULES = (memory_limit_is_within_the_device, a_prefetch_has_a_phase_to_begin_in)


def check_fit(
    plan: Plan, facts: Facts, ledger: Ledger, choices: Sequence[OffloadChoice] = ()
) -> tuple[Diagnostic, ...]:
    """The findings about memory: the device's (GK301, GK302), the host's (GK303), and what an
    offload of "auto" became (GK307)."""
    return (*_device(plan, facts, ledger), *_host(plan, facts, ledger), *_auto(plan, choices))


def _device(plan: Plan, facts: Facts, ledger: Ledger) -> Iterator[Diagnostic]:
    needs = f"it needs {format_bytes(ledger.peak_bytes)} of {format_bytes(ledger.budget_bytes)}"
    path = "cluster.device" if plan.cluster.memory_limit is None else "cluster.memory_limit"
    if ledger.verdict is Verdict.OVER:
        yield error(
            "GK301",
            f"the plan does not fit: {needs} in {ledger.peak_phase}",
            path,
            label=_shortfall(ledger),
            notes=_largest_rows(ledger),
            help=_edits(plan, facts),
        )
    if ledger.verdict is Verdict.TIGHT:
        yield warning(
            "GK302",
            f"the plan is tight: {needs} in {ledger.peak_phase}",
            path,
            label="an allocator may fragment what is left",
            notes=_largest_rows(ledger),
        )


def _host(plan: Plan, facts: Facts, ledger: Ledger) -> Iterator[Diagnostic]:
    available = facts.device.host_memory_bytes_per_node
    if ledger.host_bytes_per_node > available:
        yield error(
            "GK303",
            f"a node has {format_bytes(available)} of host memory, and what is offloaded takes "
            f"{format_bytes(ledger.host_bytes_per_node)}",
            _offload_key(plan),
            label="every rank keeps its shard in pinned memory",
            notes=(f"host memory of a node of {facts.device.key}, from the device table",),
            help=_edits(plan, facts),
        )


def _auto(plan: Plan, choices: Sequence[OffloadChoice]) -> Iterator[Diagnostic]:
    """What was chosen, beside what else was priced."""
    if not choices:
        return
    chosen = choices[cheapest(choices)]
    path = next(f"{table}.offload" for table in OFFLOADABLE if _is_auto(plan, table))
    yield note(
        "GK307",
        f"`auto` is {_offloaded(chosen)}: {_reason(chosen)}",
        path,
        notes=tuple(map(_priced, choices)),
    )


def _reason(chosen: OffloadChoice) -> str:
    if chosen.verdict is Verdict.OVER:
        return "nothing fits, and this has the smallest peak"
    return f"of what {_VERBS[chosen.verdict]} the least exposed transfer"


def _priced(choice: OffloadChoice) -> str:
    return (
        f"{_offloaded(choice)}: peak {format_bytes(choice.peak_bytes)}, {choice.verdict}, "
        f"host {format_bytes(choice.host_bytes_per_node)} a node, "
        f"{format_seconds(choice.exposed_s)} of exposed transfer a step"
    )


def _offloaded(choice: OffloadChoice) -> str:
    return f"{' and '.join(choice.offloaded) or 'nothing'} off the device"


def _is_auto(plan: Plan, table: str) -> bool:
    return bool(getattr(plan, table).offload == "auto")


def _offload_key(plan: Plan) -> str:
    """The key that sends most bytes to the host, of those that are written."""
    for table in OFFLOADABLE:
        if getattr(plan, table).offload != "none":
            return f"{table}.offload"
    return "generation.sleep_level"


def _edits(plan: Plan, facts: Facts) -> tuple[str, ...]:
    edits = tuple(edit.sentence for edit in edits_that_fit(plan, facts))
    return edits or ("no single edit makes it fit",)


def _shortfall(ledger: Ledger) -> str:
    missing = ledger.peak_bytes - ledger.budget_bytes
    if missing > 0:
        return f"{format_bytes(missing)} too little"
    return "too little is left for the allocator"


def _largest_rows(ledger: Ledger) -> tuple[str, ...]:
    """The three largest rows of the peak."""
    rows = ledger.fullest_class.phases[ledger.peak_phase].rows
    largest = sorted(rows.items(), key=lambda row: -row[1])[:3]
    return tuple(f"{name}: {format_bytes(num_bytes)}" for name, num_bytes in largest)
