"""Where the objects that move lie, phase by phase."""

from gkdplan.runplan.model import RunPlan
from gkdplan.vocab import Phase, Tier


def phases_of(run_plan: RunPlan) -> list[Phase]:
    """The phases that the ledger prices, in the order in which they run."""
    priced = {phase for memory in run_plan.ledger.classes for phase in memory.phases}
    return [phase for phase in Phase if phase in priced]


def tiers(run_plan: RunPlan) -> dict[str, dict[Phase, Tier]]:
    """Object -> phase -> tier in it, for the objects of the schedule's moves.

    A move acts before the steps of its phase; before its first move an object lies where that
    move finds it. What the ledger counts in a phase is on the device in it, if only for a moment.
    """
    residency: dict[str, dict[Phase, Tier]] = {}
    moves = sorted(run_plan.schedule.moves, key=lambda move: list(Phase).index(move.phase))
    for name in dict.fromkeys(move.object for move in moves):
        own = [move for move in moves if move.object == name]
        tier = own[0].from_tier
        residency[name] = {}
        for phase in phases_of(run_plan):
            for move in own:
                if move.phase is phase:
                    tier = move.to_tier
            residency[name][phase] = Tier.DEVICE if _is_counted(run_plan, name, phase) else tier
    return residency


def _is_counted(run_plan: RunPlan, name: str, phase: Phase) -> bool:
    classes = run_plan.ledger.classes
    return any(memory.phases[phase].rows.get(name) for memory in classes if phase in memory.phases)
