"""What a run left behind in its directory, read for the report."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gkdplan.diagnostics import Diagnostic, Severity, Span, UserError, error
from gkdplan.report.diagnostics import finding_json
from gkdplan.runplan.codec import decode
from gkdplan.runplan.model import RunPlan
from gkdplan.vocab import Phase, Source

T = TypeVar("T")
DIAGNOSTICS = "diagnostics.jsonl"
"""What was found as the run was compiled, and as it ran: a finding a line."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step's line of metrics.jsonl; `loss` in nats, the mean of its `num_tokens` response
    tokens, `seconds` by phase."""

    step: int
    loss: float
    source: Source
    num_tokens: int
    seconds: Mapping[str, float]
    peak_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out figures after `step` steps; the first two in nats a token."""

    step: int
    jsd: float
    cross_entropy: float
    top1_agreement: float | None = None
    """The share of tokens whose likeliest id is the teacher's; None in runs of before."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled response and the user's words that it answers."""

    step: int
    source: Source
    question: str
    completion: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the student wrote to a held-out prompt after `step` steps; `expected` is the row's own
    response."""

    step: int
    row: int
    question: str
    expected: str
    answer: str


@dataclass(frozen=True, slots=True)
class ReadTokens:
    """A response token by token: what each diverges by, in nats, and where both models would write
    the same one."""

    step: int
    source: Source
    question: str
    tokens: tuple[str, ...]
    divergences: tuple[float, ...]
    agree: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as far as it came."""

    run_plan: RunPlan
    steps: tuple[StepRecord, ...]
    evaluations: tuple[Evaluation, ...]
    completions: tuple[Completion, ...]
    diagnostics: tuple[Diagnostic, ...] = ()
    read: tuple[ReadTokens, ...] = ()
    answers: tuple[Answer, ...] = ()

    @property
    def measured_peak_bytes(self) -> dict[Phase, int]:
        """The largest measured peak of each phase; only some steps are measured."""
        peaks: dict[Phase, int] = {}
        for step in self.steps:
            for name, num_bytes in step.peak_bytes.items():
                peaks[Phase(name)] = max(num_bytes, peaks.get(Phase(name), 0))
        return peaks

    @property
    def seconds_by_phase(self) -> dict[str, float]:
        """Seconds of the whole run in each phase."""
        seconds: dict[str, float] = defaultdict(float)
        for step in self.steps:
            for phase, elapsed in step.seconds.items():
                seconds[phase] += elapsed
        return dict(seconds)


def read_run(directory: Path) -> RunRecord:
    """The record of a run directory.

    Raises UserError: GK506 where it holds no run, GK505 where a log is damaged, and what
    `codec.decode` raises for its lock.
    """
    lock = directory / "plan.lock.json"
    if not os.path.isfile(lock):
        help = "name a run's directory, `runs/NAME` unless the plan says otherwise, or a lock"
        message = f"`{directory}` holds no run: it has no {lock.name}"
        raise UserError(error("GK506", message, help=(help,)))
    metrics = [record for record in _records(directory / "metrics.jsonl", _metric) if record]
    return RunRecord(
        run_plan=decode(lock.read_text(encoding="utf-8", errors="replace"), str(lock)),
        steps=tuple(record for record in metrics if isinstance(record, StepRecord)),
        evaluations=tuple(record for record in metrics if isinstance(record, Evaluation)),
        completions=tuple(_records(directory / "completions.jsonl", _completion)),
        diagnostics=tuple(_records(directory / DIAGNOSTICS, _diagnostic)),
        read=tuple(_records(directory / "tokens.jsonl", _read_tokens)),
        answers=tuple(_records(directory / "answers.jsonl", _answer)),
    )


def _records(path: Path, read: Callable[[dict[str, Any]], T]) -> list[T]:
    """Every whole line; the last one of a run that was stopped may be cut off."""
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records.append(read(json.loads(line)))
        except (ValueError, LookupError, TypeError) as failure:
            message = f"`{path}` cannot be read: line {number} is damaged"
            raise UserError(error("GK505", message, notes=(repr(failure),))) from failure
    return records


def _metric(line: dict[str, Any]) -> StepRecord | Evaluation | None:
    """None of a line that says only why a step changed nothing, or warns."""
    if "skipped" in line or "warning" in line:
        return None
    return _step(line) if "loss" in line else _evaluation(line)


def _step(line: dict[str, Any]) -> StepRecord:
    return StepRecord(
        step=line["step"],
        loss=line["loss"],
        source=Source(line["source"]),
        num_tokens=line["num_tokens"],
        seconds=line["time_s"],
        peak_bytes=line["peak_bytes"],
    )


def _evaluation(line: dict[str, Any]) -> Evaluation:
    means = line["eval"]
    agreement = means.get("top1_agreement")
    return Evaluation(line["step"], means["jsd"], means["cross_entropy"], agreement)


def _read_tokens(line: dict[str, Any]) -> ReadTokens:
    return ReadTokens(
        step=line["step"],
        source=Source(line["source"]),
        question=line["question"],
        tokens=tuple(line["tokens"]),
        divergences=tuple(line["divergences"]),
        agree=tuple(line["agree"]),
    )


def _completion(line: dict[str, Any]) -> Completion:
    return Completion(line["step"], Source(line["source"]), line["question"], line["completion"])


def _answer(line: dict[str, Any]) -> Answer:
    keys = ("step", "row", "question", "expected", "answer")
    return Answer(**{key: line[key] for key in keys})


def diagnostic_line(finding: Diagnostic) -> str:
    """One finding as a line of the file of diagnostics."""
    return json.dumps(finding_json(finding), ensure_ascii=False) + "\n"


def _diagnostic(line: dict[str, Any]) -> Diagnostic:
    span = Span(**line["span"]) if line["span"] else None
    return Diagnostic(
        code=line["code"],
        severity=Severity(line["severity"]),
        message=line["message"],
        path=line["path"],
        label=line["label"],
        notes=tuple(line["notes"]),
        help=tuple(line["help"]),
        span=span,
    )
