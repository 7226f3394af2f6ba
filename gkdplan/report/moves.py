"""What moves between device and host in a step, and what does not."""

from gkdplan.report.columns import figures_aligned
from gkdplan.report.figures import unit_of
from gkdplan.report.residency import device_bytes_during, moves_in_order, timeline
from gkdplan.report.step_words import duration, exposed, verb
from gkdplan.report.words import plural
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Move, TeacherForward
from gkdplan.units import format_bytes
from gkdplan.vocab import Tier


def move_list(run_plan: RunPlan, width: int) -> str:
    """One aligned line a move, names cut where it would be too wide; then what is not prefetched
    and why."""
    streams = [wrap("", sentence, width) for sentence in streamed(run_plan)]
    rows = move_rows(run_plan)
    if not rows:
        return "\n".join(streams) or "nothing moves between device and host"
    when = max(len(row[0]) for row in rows)
    rows = [[f"{row[0]:<{when}}  {row[1]}", *row[2:]] for row in rows]
    about = [wrap("", sentence, width) for sentence in not_prefetched(run_plan)]
    return "\n".join([*figures_aligned(rows, width), *about, *streams])


def streamed(run_plan: RunPlan) -> list[str]:
    """A sentence for a teacher whose layers visit the device: no move holds them for a phase."""
    return [
        f"the teacher's layers visit the device two at a time: {format_bytes(step.streamed_bytes)} "
        f"a step from the host, in {plural(step.num_micro_batches, 'forward')}"
        for step in run_plan.steps
        if isinstance(step, TeacherForward) and step.streamed_bytes
    ]


def move_rows(run_plan: RunPlan) -> list[list[str]]:
    """Under a head: when each move is made, what moves, its bytes, the seconds of its copy and
    those in which nothing else runs, and all that is on the fullest rank's device then."""
    unit = unit_of(run_plan)
    scenes = timeline(run_plan, run_plan.ledger.fullest_class)
    rows = [
        [
            _when(move),
            f"{verb(move)} {move.object}",
            unit.format(move.num_bytes),
            duration(move),
            exposed(move),
            unit.format(device_bytes_during(scenes, move)),
        ]
        for move in moves_in_order(run_plan)
    ]
    head = ["moves of a step", "", unit.name, "copy", "exposed", "device"]
    return [head, *rows] if rows else []


def not_prefetched(run_plan: RunPlan) -> list[str]:
    """A sentence for each object whose copy to the device runs beside nothing."""
    reasons = run_plan.schedule.not_prefetched.items()
    return [f"{name} is not prefetched: {reason}" for name, reason in reasons]


def _when(move: Move) -> str:
    """Before a phase; from the beginning of one on; or until the end of one."""
    if not move.beside:
        return f"before {move.phase}"
    comes = move.to_tier is Tier.DEVICE
    return f"from {move.phase}" if comes else f"until {move.beside[-1]}"
