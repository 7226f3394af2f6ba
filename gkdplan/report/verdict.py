"""A compiled plan in one line: whether it fits, and its peak."""

from gkdplan.runplan.model import RunPlan
from gkdplan.units import format_bytes


def verdict(run_plan: RunPlan) -> str:
    """ "qwen3-8b: fits, peak 61.3 GiB of 80.0 GiB in student"; bytes are those of one rank."""
    ledger = run_plan.ledger
    peak, budget = format_bytes(ledger.peak_bytes), format_bytes(ledger.budget_bytes)
    return f"{run_plan.name}: {ledger.verdict}, peak {peak} of {budget} in {ledger.peak_phase}"
