"""What differs between two run plans, by decision, and what each difference asks of a run."""

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from gkdplan.runplan.codec import to_record
from gkdplan.runplan.model import RunPlan


class Label(StrEnum):
    """What a change asks: nothing, the state spread anew over the ranks, or another run."""

    SAFE = "safe"
    RESHARD = "reshard"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Change:
    """One JSON path whose values differ; None stands for an absent value and an empty list too.

    `old` and `new` are JSON values; the parts that follow from the rest (`ledger.classes`,
    `schedule`, `steps`) are one change each and come whole.
    """

    path: str
    old: Any
    new: Any
    label: Label


_UNCOMPARED = ("schema_version", "tool", "fingerprint")
_WHOLE = ("ledger.classes", "schedule", "steps")

_LABELS = (
    ("name", Label.SAFE),
    ("inputs.*.origin", Label.SAFE),
    ("models.*.offload", Label.SAFE),
    ("models.*.recompute", Label.SAFE),
    ("models.*.padded_vocab_size", Label.RESHARD),
    ("layout.*", Label.RESHARD),
    ("objective.payload", Label.SAFE),
    ("objective.chunk_tokens", Label.SAFE),
    ("batch.micro_rows", Label.SAFE),
    ("batch.num_micro_batches", Label.SAFE),
    ("optimizer.distributed", Label.RESHARD),
    ("training.output", Label.SAFE),
    ("training.save_interval", Label.SAFE),
    ("training.keep", Label.SAFE),
    ("training.eval_interval", Label.SAFE),
    ("training.loggers", Label.SAFE),
    ("ledger.*", Label.SAFE),
    ("schedule", Label.SAFE),
    ("steps", Label.SAFE),
    ("*", Label.RESTART),
)
"""The first pattern that a path matches labels it; what no pattern names changes the learning."""


def compare(old: RunPlan, new: RunPlan) -> list[Change]:
    """The changes from `old` to `new`, in the order of their paths."""
    before, after = _leaves(to_record(old)), _leaves(to_record(new))
    return [
        Change(path, before.get(path), after.get(path), label_of(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def label_of(path: str) -> Label:
    """What a change at this path asks of a run."""
    return next(label for pattern, label in _LABELS if fnmatchcase(path, pattern))


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """JSON path -> scalar or list of scalars, but for the parts that are compared whole."""
    if path in _UNCOMPARED or value == []:
        return {}
    if isinstance(value, dict) and path not in _WHOLE:
        parts = {f"{path}.{key}" if path else key: item for key, item in value.items()}
    elif isinstance(value, list) and path not in _WHOLE and any(isinstance(i, dict) for i in value):
        parts = {f"{path}[{index}]": item for index, item in enumerate(value)}
    else:
        return {path: value}
    return {leaf: v for part, item in parts.items() for leaf, v in _leaves(item, part).items()}
