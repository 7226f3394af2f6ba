"""A rehearsal from outside: its processes, and what their outcomes say of the plan."""

from collections.abc import Mapping
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.rehearsal import Check, Claim
from gkdplan.runtime.failures import what_failed
from gkdplan.runtime.machine.lacking import check_machine
from gkdplan.runtime.ranks import start_ranks
from gkdplan.runtime.rehearsal import worker
from gkdplan.runtime.rehearsal.outcome import Outcome, difference, size_of
from gkdplan.runtime.rehearsal.worker import ALONE

LOSS, GRADIENT = 1e-6, 1e-4
"""How far float32 on several ranks may be from float32 on one, relatively."""
ZERO_LOSS, ZERO_GRADIENT = 1e-7, 1e-6
"""What rounding may leave where a student is its own teacher."""


def rehearse(plans: Mapping[str, RunPlan], home: Path) -> tuple[Check, ...]:
    """Run the first step of the plan of each claim, all of one world, and of `ALONE`; compare.

    `home` is an empty directory. Raises UserError where this version does not run the plan, or a
    rank fails.
    """
    layout = plans[Claim.LAYOUT]
    check_machine(layout)
    failures = home / "failures"
    failures.mkdir()
    locks = {name: encode(plan) for name, plan in plans.items()}
    num_ranks, run_id = layout.layout.world_size, layout.fingerprint[:12]
    try:
        start_ranks(worker.main, num_ranks, run_id, locks, str(home), str(failures))
    except ChildFailedError as failure:
        raise UserError(*what_failed(failure, failures, ())) from failure
    except SignalException as stop:
        raise KeyboardInterrupt from stop
    return judge(home)


def judge(home: Path) -> tuple[Check, ...]:
    """The three claims, from the outcomes in `home`."""
    alone = _outcomes(home, ALONE)
    itself = size_of(_outcomes(home, Claim.ITSELF))
    layout, split = (
        difference(_outcomes(home, claim), alone) for claim in (Claim.LAYOUT, Claim.SPLIT)
    )
    return (
        Check(Claim.ITSELF, "loss", itself.loss, ZERO_LOSS),
        Check(Claim.ITSELF, "gradient", itself.gradient, ZERO_GRADIENT, itself.parameter),
        Check(Claim.LAYOUT, "loss", layout.loss, LOSS),
        Check(Claim.LAYOUT, "gradient", layout.gradient, GRADIENT, layout.parameter),
        Check(Claim.SPLIT, "loss", split.loss, LOSS),
        Check(Claim.SPLIT, "gradient", split.gradient, GRADIENT, split.parameter),
    )


def _outcomes(home: Path, name: str) -> list[Outcome]:
    """Of every rank that ran it."""
    return [Outcome.load(file) for file in sorted(home.glob(f"{name}.rank_*.safetensors"))]
