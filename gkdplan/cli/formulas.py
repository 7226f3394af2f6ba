"""`gkdplan memory --explain NAME`: which numbers of the ledger a name means."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.facts.devices import DEVICES
from gkdplan.planner.draft import draft_of
from gkdplan.planner.memory.explain import explain
from gkdplan.report.figures import ranks_of
from gkdplan.runplan.formula import Explanation
from gkdplan.runplan.ledger import ClassMemory
from gkdplan.runplan.model import RunPlan


def explained(run_plan: RunPlan, name: str, rank: int | None = None) -> tuple[Explanation, ...]:
    """The numbers that `name` means on the class of `rank`, or on the fullest class of ranks:
    `student.activations`, a row of a phase; `activations`, in the phase in which it is largest;
    `student`, all rows of a phase.

    Raises UserError (GK509) where it means none, where there is no such rank, or where a lock's
    numbers are not those that this version prices.
    """
    device = DEVICES.get(run_plan.layout.device)
    if device is None:
        raise UserError(_priced_otherwise())
    memory = run_plan.ledger.fullest_class if rank is None else _class_of(run_plan, rank)
    everything = explain(draft_of(run_plan), device, run_plan.schedule.moves)
    of_class = [e for e in everything if e.ranks == memory.ranks]
    if any(memory.phases[e.phase].rows.get(e.row) != e.num_bytes for e in of_class):
        raise UserError(_priced_otherwise())
    chosen = _select(of_class, name)
    if not chosen:
        raise UserError(_unknown(name, of_class, _select(everything, name)))
    return chosen


def _class_of(run_plan: RunPlan, rank: int) -> ClassMemory:
    for memory in run_plan.ledger.classes:
        if any(start <= rank < end for start, end in memory.ranks):
            return memory
    last = run_plan.layout.world_size - 1
    raise UserError(
        error("GK509", f"the plan has no rank {rank}", help=(f"`--rank` takes 0 to {last}",))
    )


def _select(explanations: Sequence[Explanation], name: str) -> tuple[Explanation, ...]:
    phase, _, row = name.rpartition(".")
    if not phase and any(e.phase == name for e in explanations):
        return tuple(e for e in explanations if e.phase == name)
    rows = [e for e in explanations if _means(row, e.row) and phase in ("", e.phase)]
    return (max(rows, key=lambda e: e.num_bytes),) if rows else ()


def _means(word: str, row: str) -> bool:
    """`student main + adam`, `student_main_adam`; also `payload` for `payload (hidden)`."""
    return _plain(row) == _plain(word) or re.sub(r" \(.*\)", "", row) == word


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _unknown(
    name: str, explanations: Sequence[Explanation], elsewhere: Sequence[Explanation]
) -> Diagnostic:
    """`explanations` are those of one class, `elsewhere` what the name means on others."""
    names = [f"{e.phase}.{_plain(e.row)}" for e in explanations]
    names += dict.fromkeys(part for full in names for part in full.split("."))
    nearest = get_close_matches(_plain_path(name), names, n=3, cutoff=0.5)
    rows = dict.fromkeys(full.split(".")[1] for full in names if "." in full)
    phases = dict.fromkeys(full.split(".")[0] for full in names if "." in full)
    help = [f"`--explain {name} --rank {e.ranks[0][0]}`" for e in elsewhere[:1]]
    return error(
        "GK509",
        f"there is no number `{name}` on {ranks_of(explanations[0].ranks)}",
        notes=(f"phases: {', '.join(phases)}", f"rows: {', '.join(rows)}"),
        help=tuple(help or [f"`--explain {near}`" for near in nearest]),
    )


def _plain_path(name: str) -> str:
    return ".".join(_plain(part) for part in name.split("."))


def _priced_otherwise() -> Diagnostic:
    return error(
        "GK509",
        "the lock's numbers are not those that this gkdplan prices, so their formulas are unknown",
        help=("compile the plan again with `gkdplan plan PLAN -o LOCK`",),
    )
