"""What identifies a run: all that the executor reads, and nothing that is only said about it."""

from typing import Any

_ONLY_SAID = {
    "tool",
    "fingerprint",
    "checksum",
    "name",
    "inputs.student.origin",
    "inputs.teacher.origin",
    "data.pictures.hosts",
    "layout.classes",
    "layout.rendezvous",
    "ledger",
    "models.student.prefetch",
    "models.teacher.prefetch",
    "models.teacher.server.addresses.url",
    "models.teacher.server.patience_s",
    "optimizer.prefetch",
    "sampling.server_urls",
    "sampling.server_key",
    "sampling.server_patience_s",
    "timing",
    "training.max_skipped_steps",
    "schedule",
    "steps.bytes",
    "steps.num_bytes",
    "steps.num_at_once",
    "steps.seconds",
    "steps.hidden_s",
    "steps.max_tokens",
    "steps.urls",
    "steps.width",
}
"""Names, places, wishes and prices, by JSON path without list indices. The moves of `schedule` are
among `steps`, where what moves, when and where to is read, and bytes and seconds are not."""


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """The JSON record of a run plan without what its run does not depend on."""
    return _read(record, "")  # type: ignore[no-any-return]


def _read(value: Any, path: str) -> Any:
    if isinstance(value, list):
        return [_read(item, path) for item in value]
    if not isinstance(value, dict):
        return value
    parts = {key: f"{path}.{key}" if path else key for key in value}
    return {key: _read(value[key], at) for key, at in parts.items() if at not in _ONLY_SAID}
