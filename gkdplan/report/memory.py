"""The dry-run memory report: tables, budget, disk and the moves of a step."""

from gkdplan.report.columns import left_aligned
from gkdplan.report.figures import unit_of
from gkdplan.report.memory_table import memory_table, other_classes
from gkdplan.report.moves import move_list
from gkdplan.report.words import plural
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.runplan.steps import saving_of
from gkdplan.units import format_bytes
from gkdplan.vocab import Verdict


def memory_report(run_plan: RunPlan, width: int) -> str:
    """Tables, budget and the moves of a step; no line is wider than `width`."""
    return f"{memory_tables(run_plan, width)}\n\n{move_list(run_plan, width)}"


def memory_tables(run_plan: RunPlan, width: int) -> str:
    """The table of the fullest ranks, a line for each group of the others, budget and headroom."""
    fullest = run_plan.ledger.fullest_class
    parts = [memory_table(run_plan, fullest, width)]
    if len(run_plan.ledger.classes) > 1:
        parts.append("\n".join(left_aligned(other_classes(run_plan))))
    about = [budget(run_plan), disk(run_plan)]
    if run_plan.sampling.vllm is not None:
        about.append(f"kv cache {capacity(run_plan.sampling.vllm)}")
    return "\n\n".join([*parts, "\n".join(wrap("", line, width) for line in about)])


def budget(run_plan: RunPlan) -> str:
    """Budget, headroom of the fullest rank, and what lies in a node's RAM."""
    ledger, unit = run_plan.ledger, unit_of(run_plan)
    headroom = ledger.budget_bytes - ledger.peak_bytes
    return (
        f"budget {unit.format(ledger.budget_bytes)} {unit.name} a rank,"
        f" headroom {unit.format(headroom)} {unit.name} ({headroom / ledger.budget_bytes:.0%});"
        f" {host(run_plan)}"
    )


def host(run_plan: RunPlan) -> str:
    """The verdict on a node's RAM: `host fits: 13.2 GiB of 2.0 TiB a node`."""
    ledger = run_plan.ledger
    lies, room = ledger.host_bytes_per_node, ledger.host_budget_bytes_per_node
    verdict = Verdict.FITS if lies <= room else Verdict.OVER
    return f"host {verdict}: {format_bytes(lies)} of {format_bytes(room)} a node"


def disk(run_plan: RunPlan) -> str:
    """What checkpoints take: `checkpoints 40.2 GiB each, 3 at once: 120.6 GiB of disk`."""
    saving = saving_of(run_plan.steps)
    each, all_of_them = format_bytes(saving.num_bytes), format_bytes(saving.room_bytes)
    if saving.num_at_once == 1:
        return f"one checkpoint: {each} of disk"
    return f"checkpoints {each} each, {saving.num_at_once} at once: {all_of_them} of disk"


def capacity(engine: VllmPlan) -> str:
    """What vllm's cache holds: 123,456 tokens, 60 sequences of 2,048 tokens at once."""
    sequences = plural(engine.num_sequences, "sequence")
    return (
        f"of {engine.capacity_tokens:,} tokens holds {sequences} of "
        f"{engine.max_model_len:,} tokens at once"
    )
