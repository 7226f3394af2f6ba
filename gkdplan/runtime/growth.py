"""What a phase held beyond its plan, and which row of the ledger that is."""

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from gkdplan.runplan.ledger import Ledger
from gkdplan.runtime.session import Session
from gkdplan.units import format_bytes
from gkdplan.vocab import Phase

TOLERANCE = 0.05
"""Of the plan, before a phase is worth a word."""
REST = "activations, loss and temporaries"
_OUTSIDE = "overhead"
"""How the rows begin that lie outside tensors."""


def growth(session: Session, measured: Mapping[Phase, int]) -> Iterator[str]:
    """A line for each phase that held more tensors than planned, with the row that grew most.

    Rows of what stays are measured now, on this rank; what passes is the rest.
    """
    planned = session.plan.ledger.phase_peaks
    for phase, num_bytes in measured.items():
        wanted = planned[phase] - _outside_bytes(session.plan.ledger, phase)
        if num_bytes > (1 + TOLERANCE) * wanted:
            row, grown = _row_that_grew(session, phase, num_bytes - wanted)
            yield (
                f"the {phase} phase held {format_bytes(num_bytes)}, planned {format_bytes(wanted)} "
                f"({num_bytes / wanted - 1:+.0%}); {row} grew by {format_bytes(grown)}"
            )


def _row_that_grew(session: Session, phase: Phase, grown: int) -> tuple[str, int]:
    """The row of what stays that is farthest beyond its plan, or the rest where that grew more."""
    rows = session.plan.ledger.fullest_class.phases[phase].rows
    beyond = {
        name: num_bytes - rows.get(name, 0) for name, num_bytes in _what_stays(session).items()
    }
    name, most = max(beyond.items(), key=lambda row: row[1])
    rest = grown - sum(max(0, num_bytes) for num_bytes in beyond.values())
    return (name, most) if most > rest else (REST, rest)


def _what_stays(session: Session) -> Mapping[str, int]:
    trainer = session.trainer
    return {
        "student params": _bytes(p for chunk in session.student for p in chunk.parameters()),
        "student grads": _bytes(trainer.gradients()),
        "student main + Adam": _bytes(trainer.state_apart()),
    }


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def _outside_bytes(ledger: Ledger, phase: Phase) -> int:
    rows = ledger.fullest_class.phases[phase].rows
    return sum(num_bytes for name, num_bytes in rows.items() if name.startswith(_OUTSIDE))
