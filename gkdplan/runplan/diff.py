"""What differs between two run plans, by decision, and what each difference asks of a run."""

import json
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

from gkdplan.runplan.codec import to_record
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.records import from_json


class Label(StrEnum):
    """What a change asks: nothing, the state spread anew over the ranks, or another run."""

    SAFE = "safe"
    RESHARD = "reshard"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Change:
    """One JSON path whose values differ; None stands for an absent value and an empty list too.

    `old` and `new` are JSON values; the parts that follow from the rest (`layout.classes`,
    `ledger.classes`, `timing`, `schedule`, `steps`) are one change each and come whole. Changes
    with one `decision` are made together or not at all. `objective` says whether something else is
    learnt.
    """

    path: str
    old: Any
    new: Any
    label: Label
    objective: bool
    decision: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a change asks of a run, and whether it changes what is learnt: the loss, its teacher,
    and whose responses it is taken on. Another student, rate or seed learns the same."""

    pattern: str
    label: Label
    objective: bool = False


_UNCOMPARED = ("schema_version", "tool", "fingerprint", "checksum")
_WHOLE = ("layout.classes", "ledger.classes", "timing", "schedule", "steps")
_RESULTS = ("layout.classes", "ledger.*", "timing", "schedule", "steps")
_SAFE, _RESHARD, _RESTART = Label.SAFE, Label.RESHARD, Label.RESTART

_RULES = (
    _Rule("name", _SAFE),
    _Rule("inputs.*.origin", _SAFE),
    _Rule("inputs.*.tokenizer", _RESTART, objective=True),
    _Rule("models.vocab_size", _RESTART, objective=True),
    _Rule("models.*.offload", _SAFE),
    _Rule("models.*.prefetch", _SAFE),
    _Rule("models.student.idle_*", _SAFE),
    _Rule("models.*.recompute.*", _SAFE),
    _Rule("models.*.padded_vocab_size", _RESHARD),
    _Rule("models.*.stage_layers", _RESHARD),
    _Rule("models.teacher.server.addresses*.url", _SAFE),
    _Rule("models.teacher.server.patience_s", _SAFE),
    _Rule("models.teacher.*", _RESTART, objective=True),
    _Rule("models.student.load_balance*", _RESTART, objective=True),
    _Rule("models.student.*", _RESTART),
    _Rule("layout.classes", _SAFE),
    _Rule("layout.rendezvous.*", _SAFE),
    _Rule("layout.kernels", _RESTART),
    _Rule("layout.*", _RESHARD),
    _Rule("objective.payload", _SAFE),
    _Rule("objective.chunk_tokens", _SAFE),
    _Rule("objective.loss_backend", _SAFE),
    _Rule("objective.*", _RESTART, objective=True),
    _Rule("sampling.engine", _RESTART),
    _Rule("sampling.server_*", _SAFE),
    _Rule("sampling.*", _RESTART, objective=True),
    _Rule("data.eval*", _SAFE),
    _Rule("data.cache", _SAFE),
    _Rule("data.pictures.hosts", _SAFE),
    _Rule("data.shuffle", _RESTART),
    _Rule("data.*", _RESTART, objective=True),
    _Rule("batch.micro_rows", _SAFE),
    _Rule("batch.num_micro_batches", _SAFE),
    _Rule("batch.global_rows", _RESTART),
    _Rule("optimizer.offload", _SAFE),
    _Rule("optimizer.prefetch", _SAFE),
    _Rule("optimizer.distributed", _RESHARD),
    _Rule("optimizer.*", _RESTART),
    _Rule("training.output", _SAFE),
    _Rule("training.save_interval", _SAFE),
    _Rule("training.keep", _SAFE),
    _Rule("training.async_save", _SAFE),
    _Rule("training.eval_interval", _SAFE),
    _Rule("training.eval_samples", _SAFE),
    _Rule("training.loggers", _SAFE),
    _Rule("training.max_skipped_steps", _SAFE),
    _Rule("training.*", _RESTART),
    _Rule("ledger.*", _SAFE),
    _Rule("timing*", _SAFE),
    _Rule("schedule", _SAFE),
    _Rule("steps", _SAFE),
)
"""The first pattern that a path matches holds; every path of a run plan matches one."""

_DECISIONS = (
    ("models.*.offload", None),
    ("models.*.prefetch", None),
    ("models.student.idle_*", "models.student.offload"),
    ("models.*.dtype", None),
    ("models.student.recompute.*", "models.student.recompute"),
    ("models.*", "models and layout"),
    ("layout.kernels", None),
    ("layout.rendezvous.*", None),
    ("layout.*", "models and layout"),
    ("batch.*", "batch"),
    ("data.train*", "data.train"),
    ("data.eval*", "data.eval"),
    ("*", None),
)
"""What can only change together: the first pattern names the decision; None is the path itself."""


def compare(old: RunPlan, new: RunPlan) -> list[Change]:
    """The changes from `old` to `new`, in the order of their paths."""
    before, after = _leaves(to_record(old)), _leaves(to_record(new))
    return [
        Change(
            path,
            before.get(path),
            after.get(path),
            label_of(path),
            changes_objective(path),
            decision_of(path),
        )
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def obstacles(old: RunPlan, new: RunPlan) -> list[Change]:
    """The changes with which a run of `old` cannot go on as one of `new`."""
    return [change for change in compare(old, new) if change.label is Label.RESTART]


def course(run_plan: RunPlan) -> str:
    """The sha256 of all that has to stay from a run's first step to its last: two run plans between
    which there are no `obstacles` have one."""
    kept = {
        path: value
        for path, value in _leaves(to_record(run_plan)).items()
        if label_of(path) is Label.RESTART
    }
    return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def label_of(path: str) -> Label:
    """What a change at this path asks of a run."""
    return _rule_of(path).label


def changes_objective(path: str) -> bool:
    """Whether a change at this path changes what is learnt."""
    return _rule_of(path).objective


def decision_of(path: str) -> str:
    """The decision that a change at this path belongs to."""
    decision = next(name for pattern, name in _DECISIONS if fnmatchcase(path, pattern))
    return path if decision is None else decision


def is_result(path: str) -> bool:
    """Whether the value at this path follows from decisions elsewhere."""
    return any(fnmatchcase(path, pattern) for pattern in _RESULTS)


def with_decision(old: RunPlan, new: RunPlan, decision: str) -> RunPlan:
    """`old`, but for one decision, which is taken from `new`; its results and seal stay `old`'s."""
    record, other = to_record(old), to_record(new)
    for change in compare(old, new):
        if change.decision == decision:
            _copy(other, record, change.path.split("[")[0].split("."))
    changed: RunPlan = from_json(RunPlan, record)
    return changed


def _rule_of(path: str) -> _Rule:
    for rule in _RULES:
        if fnmatchcase(path, rule.pattern):
            return rule
    raise LookupError(f"no rule says what a change of {path} asks of a run")


def _copy(source: dict[str, Any], target: dict[str, Any], keys: list[str]) -> None:
    """The value at the keys, or at the first of them below which only one side has keys."""
    key, *rest = keys
    if rest and isinstance(source[key], dict) and isinstance(target[key], dict):
        _copy(source[key], target[key], rest)
    else:
        target[key] = source[key]


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
