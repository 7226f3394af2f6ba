"""What one decision of another run plan would do to the peak, all others staying as they are."""

from dataclasses import replace

from gkdplan.facts.devices import DEVICES
from gkdplan.planner.draft import draft_of
from gkdplan.planner.pricing import price_draft
from gkdplan.runplan.diff import compare, is_result, with_decision
from gkdplan.runplan.model import BatchPlan, RunPlan


def peak_differences(old: RunPlan, new: RunPlan) -> dict[str, int]:
    """Decision -> bytes by which the peak of `old` moves where it alone is taken from `new`.

    Decisions act on each other, so that the differences need not add up to that of the whole.
    Empty where a lock names a device that is not in the table.
    """
    if not {old.layout.device, new.layout.device} <= DEVICES.keys():
        return {}
    decisions = {c.decision for c in compare(old, new) if not is_result(c.path)}
    before = _peak_bytes(old)
    return {
        decision: _peak_bytes(with_decision(old, new, decision)) - before
        for decision in sorted(decisions)
    }


def _peak_bytes(run_plan: RunPlan) -> int:
    """The peak of what the run plan decides, priced now."""
    decided = replace(draft_of(run_plan), batch=_divided(run_plan))
    device = DEVICES[run_plan.layout.device]
    return price_draft(decided, device, run_plan.ledger.budget_bytes).ledger.peak_bytes


def _divided(run_plan: RunPlan) -> BatchPlan:
    """The batch over the data ranks that there are."""
    batch = run_plan.batch
    rows = batch.micro_rows * run_plan.layout.student.data
    return replace(batch, num_micro_batches=max(1, batch.global_rows // rows))
