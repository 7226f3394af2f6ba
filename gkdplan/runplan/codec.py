"""A RunPlan as a lock: canonical, sealed JSON with sorted keys and integers for bytes."""

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.identity import identity
from gkdplan.runplan.model import SCHEMA_VERSION, RunPlan
from gkdplan.runplan.records import MisfitError, from_json, to_json


def encode(run_plan: RunPlan) -> str:
    """The canonical text of a lock, with a final newline; equal run plans give equal texts."""
    return _canonical(to_record(run_plan)) + "\n"


def to_record(run_plan: RunPlan) -> dict[str, Any]:
    """The run plan as JSON values, as `encode` writes them."""
    record: dict[str, Any] = to_json(RunPlan, run_plan)
    return record


def seal(run_plan: RunPlan) -> RunPlan:
    """The same run plan with its fingerprint and its checksum filled in."""
    named = replace(run_plan, fingerprint=fingerprint(run_plan))
    return replace(named, checksum=checksum(named))


def fingerprint(run_plan: RunPlan) -> str:
    """sha256, in hex, of what identifies the run: `identity`."""
    return _sha256(identity(to_record(run_plan)))


def checksum(run_plan: RunPlan) -> str:
    """sha256, in hex, of everything but the checksum."""
    record = to_record(run_plan)
    del record["checksum"]
    return _sha256(record)


def decode(text: str, origin: str = "the lock") -> RunPlan:
    """The run plan that `encode` wrote; `origin` names the file in messages.

    Raises UserError: GK502 where the text is not a lock, with the JSON path of the first value that
    does not belong; GK503 where the content has another seal than it says; GK504 where another
    version of the format wrote it.
    """
    record = _parse(text, origin)
    if record["schema_version"] != SCHEMA_VERSION:
        raise UserError(_of_another_version(origin, record["schema_version"]))
    try:
        run_plan: RunPlan = from_json(RunPlan, record)
    except MisfitError as misfit:
        reason = f"`{misfit.path}` {misfit.reason}"
        raise UserError(_not_a_lock(origin, reason, misfit.path)) from None
    if run_plan != seal(run_plan):
        raise UserError(_edited(origin, run_plan))
    return run_plan


def _sha256(record: dict[str, Any]) -> str:
    """In hex, of the canonical JSON without white space."""
    text = json.dumps(
        record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return sha256(text.encode()).hexdigest()


def _canonical(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as failure:
        raise UserError(_not_a_lock(origin, f"not valid JSON: {failure}")) from None
    if not isinstance(record, dict) or "schema_version" not in record:
        raise UserError(_not_a_lock(origin, "no `schema_version` at its top"))
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _not_a_lock(origin: str, reason: str, path: str | None = None) -> Diagnostic:
    help = "write a lock with `gkdplan plan PLAN -o LOCK`"
    return error("GK502", f"{origin} is not a lock of gkdplan: {reason}", path, help=(help,))


def _edited(origin: str, run_plan: RunPlan) -> Diagnostic:
    sealed = seal(run_plan)
    name = "checksum" if sealed.fingerprint == run_plan.fingerprint else "fingerprint"
    return error(
        "GK503",
        f"{origin} was edited: its content does not have the {name} it says",
        name,
        notes=(f"it says {getattr(run_plan, name)}", f"it has {getattr(sealed, name)}"),
        help=("change the plan and compile it again with `gkdplan plan PLAN -o LOCK`",),
    )


def _of_another_version(origin: str, version: object) -> Diagnostic:
    return error(
        "GK504",
        f"{origin} has lock format {version!r}; this gkdplan reads format {SCHEMA_VERSION}",
        "schema_version",
        help=("compile the plan again with `gkdplan plan PLAN -o LOCK`",),
    )
